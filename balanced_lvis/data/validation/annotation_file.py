"""Check of an annotation file, and of its images."""

from __future__ import annotations

import dataclasses
import os

from ...utils.findings import Findings
from ...utils.garbage_collection import without_cycle_detection
from ..annotations.annotation_columns import split_columns
from ..annotations.annotation_reader import LISTS, read_parts
from ..annotations.reading import open_annotations, why_not_json
from ..images.image_paths import find_images
from .annotation_checker import AnnotationChecker
from .image_checks import read_all, report_respelled
from .validation_report import Problem, Report


def validate_annotations(
    json_file: str | os.PathLike,
    image_root: str | os.PathLike | None = None,
    *,
    layout: str | None = None,
    read_images: bool = False,
    progress: bool = False,
) -> Report:
    """
    Check an annotation file in COCO or LVIS format: every record, every reference, every mask.

    The file is parsed as a stream: 1.3 million annotations take about 360 MB of memory. Nothing is written.

    Args:
        json_file: path of the annotation file.
        image_root: the folder of images; None: images are not checked.
        layout: the paths of images in it: "coco": ``file_name``. "lvis": the last two parts of ``coco_url``. None:
            ``file_name`` if an image has one.
        read_images: also decode every image, and compare its size with the annotated one.
        progress: show a progress bar.

    Returns:
        the problems by kind. A file that can't be parsed to its end has the problem "not_json", and the problems of the
        part before. A missing list ``annotations``, as in the file of test-dev, is not a problem.

    Raises:
        InputError: if the file doesn't exist or can't be opened.
    """
    report, checker = check_records(json_file, layout, progress)
    if image_root is None:
        return report
    return _with_images(report, checker, os.fspath(image_root), read_images, progress)


def check_records(
    json_file: str | os.PathLike, layout: str | None = None, progress: bool = False
) -> tuple[Report, AnnotationChecker]:
    """As :func:`validate_annotations` without images. Also returns the checker, which has the paths of images."""
    checker = AnnotationChecker(layout)
    seen: set[str] = set()
    with open_annotations(json_file, "Checking", progress) as (raw, file), without_cycle_detection():
        try:
            for key, records in read_parts(file, optional=LISTS, seen=seen):
                for record in split_columns(records):
                    checker.add(key, record)
        except (ValueError, RecursionError) as error:
            checker.findings.add("not_json", why_not_json(raw, error))
        else:
            for key in ("images", "categories"):
                if key not in seen:
                    checker.findings.add(f"no_{key}", f"it has no {key!r}")
    return checker.finish(os.fspath(json_file), "annotations" in seen), checker


def _with_images(report: Report, checker: AnnotationChecker, root: str, read: bool, progress: bool) -> Report:
    findings = Findings(Problem)
    used = [i for i, path in enumerate(checker.paths) if path]  # paths that leave the folder are not looked up
    names = [checker.paths[i] for i in used]
    found = find_images(root, names)
    findings.add_all("image_missing", [os.path.join(root, name) for name, file in zip(names, found) if file is None])
    report_respelled(findings, names, found)
    if read:
        there = [(os.path.join(root, file), checker.sizes[i]) for i, file in zip(used, found) if file is not None]
        paths, sizes = zip(*there) if there else ((), ())
        for position, kind, reason in read_all(paths, sizes, progress):
            findings.add(kind, f"{paths[position]} ({reason})")
    return dataclasses.replace(report, problems=(*report.problems, *findings.problems()))
