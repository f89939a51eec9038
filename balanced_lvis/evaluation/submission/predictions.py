"""Import of results files from other programs, after validation."""

from __future__ import annotations

import itertools
import logging
import os
import shutil

import numpy as np
from pycocotools import mask as mask_util

from ...utils.errors import InputError
from ..detection_store import Detections, DetectionWriter
from ..lvis_api import IOU_TYPES
from .image_list import ImageList
from .problems import Report
from .results_checker import Checker, Row
from .results_reader import BROKEN, batches_of, why_unreadable
from .results_writer import Written, write_submission

logger = logging.getLogger(__name__)

# Errors that do not affect evaluation, which selects the 300 best itself and never uses a box as the area of a mask.
_TOLERATED = ("bbox_in_mask_file", "too_many", "empty")
# Not even worth a warning: areas are computed from the masks, and boxes go to a separate file.
_HARMLESS = ("bbox_in_mask_file",)
# pycocotools stores the length of a list in 8 bits.
_AT_ONCE = 255


def read_predictions(
    path: str | os.PathLike, images: ImageList, folder: str | os.PathLike, progress: bool = True
) -> tuple[Detections, tuple[str, ...], Report]:
    """
    Validate a results file and store its detections.

    Args:
        path: path of a JSON list in LVIS result format, or of a zip archive with one. Detections may be in any order,
            with any number per image, and may have both boxes and masks.
        images: images and categories of the dataset.
        folder: folder for the detections; the caller deletes it.
        progress: show a progress bar on a terminal.

    Returns:
        the detections, with all numbers as in the file; the tasks that they can be evaluated for ("bbox", "segm" or
        both; both for an empty list); and the report of the validation.

    Raises:
        InputError: if the file can't be read or has errors. The message lists each kind with its count and first cases.
    """
    checker, writer = Checker(images), DetectionWriter(folder, exact_boxes=True)
    with_boxes = True
    try:
        for batch in batches_of(path, progress):
            rows = checker.add(batch)
            if not checker.findings.errors(but=_TOLERATED):
                with_boxes &= all(row.box is not None for row in rows)
                _write(writer, rows, images)
    except InputError:
        raise
    except BROKEN as error:
        checker.findings.add("not_json", why_unreadable(error))
    finally:
        writer.close()
    report = checker.finish(os.fspath(path))
    report.raise_errors(but=_TOLERATED)
    for problem in report.problems:
        if problem.kind not in _HARMLESS:
            logger.warning("%s: %s", os.fspath(path), problem.description)
    tasks = tuple(task for task in IOU_TYPES if (with_boxes if task == "bbox" else checker.task != "bbox"))
    detections = Detections(folder, images.category_ids.tolist())
    detections.require_whole()
    return detections, tasks, report


def export_predictions(
    path: str | os.PathLike, images: ImageList, stem: str | os.PathLike, zipped: bool = False
) -> list[Written]:
    """
    Convert a results file into a submission: validated, with the 300 best detections per image, boxes and masks in
    separate files.

    Args:
        path, images: as for :func:`read_predictions`.
        stem, zipped: as for :func:`balanced_lvis.evaluation.submission.results_writer.write_submission`.

    Returns:
        a summary of each file.

    Raises:
        InputError: as :func:`read_predictions`; also for a file without detections, which the server can't read.
    """
    folder = f"{os.fspath(stem)}_predictions"
    try:
        detections, tasks, _ = read_predictions(path, images, folder)
        if not len(detections):
            raise InputError(f"Results {os.fspath(path)} have no detections; the LVIS API can't read an empty list.")
        return write_submission(lambda: [detections], stem, "bbox" in tasks, "segm" in tasks, zipped)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write(writer: DetectionWriter, rows: list[Row], images: ImageList) -> None:
    classes = np.searchsorted(images.category_ids, [row.category_id for row in rows])
    known = [row.box for row in rows if row.box is not None]
    boxes = known if len(known) == len(rows) else _boxes_of_masks(rows)
    begin = 0
    for image_id, grouped in itertools.groupby(rows, key=lambda row: row.image_id):
        group = list(grouped)
        part = slice(begin, begin + len(group))
        rles = None
        if group[0].counts is not None:
            rles = [{"size": row.size, "counts": row.counts} for row in group]
        writer.write(image_id, boxes[part], [row.score for row in group], classes[part], rles)
        begin += len(group)


def _boxes_of_masks(rows: list[Row]) -> list[list[float]]:
    """The boxes that the LVIS API computes for masks without a box."""
    rles = [{"size": list(row.size), "counts": (row.counts or "").encode("ascii")} for row in rows]
    parts = [mask_util.toBbox(rles[begin : begin + _AT_ONCE]) for begin in range(0, len(rles), _AT_ONCE)]
    return np.concatenate(parts).tolist()
