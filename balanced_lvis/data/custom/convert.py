"""Conversion of an annotation file in COCO or LVIS format to LVIS format, in one pass and in bounded memory."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from typing import IO, NamedTuple

from pycocotools import mask as mask_util

from ...priors import frequency_group
from ...utils.errors import InputError
from ...utils.findings import Findings
from .. import frequency
from ..annotations.annotation_reader import LISTS, Annotation, Category, Image, RecordError, read_records
from ..annotations.reading import open_annotations
from ..images.image_paths import choose_layout, find_images, path_problem
from ..validation.annotation_checker import AnnotationChecker
from ..validation.image_checks import report_respelled
from ..validation.masks import mask_area, rle_problem
from ..validation.validation_report import Problem, Report
from .converted_file import FORMAT, ConversionSummary

logger = logging.getLogger(__name__)


class TrainCounts(NamedTuple):
    """
    Attributes:
        image_count: K numbers of training images, by ascending category id.
        owner: name of the training set or prior, for messages.
        class_names: K names of these categories.
    """

    image_count: list[int]
    owner: str
    class_names: list[str]


def convert(
    json_file: str, image_root: str, output: IO[str], train: TrainCounts | None, source: Mapping[str, int]
) -> ConversionSummary:
    """
    Write an annotation file in LVIS format.

    - Crowd regions are not objects. They are left out, and their category is "not exhaustively annotated" in the image,
      so that detections there are neither correct nor wrong.
    - If no image has ``neg_category_ids``, all images are considered exhaustively annotated: every category without an
      object in an image is known to be absent.
    - Objects with ``ignore`` 1 keep it for the LVIS API, which ignores them and the detections that match them. Loaders
      and counts leave them out.
    - Categories keep their ``frequency`` if all have one; else it is derived from the number of training images. LVIS's
      ``image_count`` and ``instance_count`` are added.
    - Images have a ``file_name`` relative to the folder of images, and no ``coco_url``.
    - Annotations are renumbered from 1. A missing ``area`` is computed from the mask within the image, or from the box
      if there is no mask.

    Category ids don't change, so that results have the ids of the original file.

    Args:
        json_file: path of the annotation file in COCO or LVIS format.
        image_root: the folder of images.
        output: a text file open for writing.
        train: the counts for frequency groups, if the file has no groups; None: the file's own counts.
        source: size and mtime_ns of the file, for the summary.

    Raises:
        InputError: if the file can't be read or is invalid, with all problems.
    """
    conversion, checker = _Conversion(json_file, image_root, output), AnnotationChecker()
    seen: set[str] = set()
    output.write('{"annotations": [')
    with open_annotations(json_file, "Converting", progress=True, refusal="can't be used") as (_, file):
        for key, record in read_records(file, optional=("annotations",), seen=seen):
            checker.add(key, record)
            conversion.add(record)
    report = checker.finish(json_file, "annotations" in seen)
    report.raise_errors()
    return conversion.finish(report, train, source)


class _Conversion:
    """The state of a conversion. Annotations are written as they are read."""

    def __init__(self, json_file: str, image_root: str, output: IO[str]):
        self._json_file, self._image_root, self._output = json_file, image_root, output
        self._images: dict[int, Image] = {}
        self._sizes: dict[int, tuple[int, int]] | None = None  # of all images, where they come after annotations
        self._categories: dict[int, Category] = {}
        self._present: dict[int, set[int]] = {}  # image id -> category ids of objects
        self._crowded: dict[int, set[int]] = {}
        self._ignored: dict[int, set[int]] = {}
        self._instances: dict[int, int] = {}  # category id -> objects
        self._num = {"annotations": 0, "crowds": 0, "ignored": 0, "rles": 0, "boxes": 0}
        self._unusable = ""

    def add(self, record: Image | Category | Annotation | RecordError) -> None:
        """Add a record. Unreadable ones are skipped: the checker refuses the file because of them."""
        if isinstance(record, Image):
            self._images[record.id] = record
        elif isinstance(record, Category):
            self._categories[record.id] = record
        elif isinstance(record, Annotation):
            try:
                self._add_annotation(record)
            except (ValueError, OverflowError) as error:
                self._unusable = self._unusable or f"annotation {record.id} of image {record.image_id}: {error}"

    def _add_annotation(self, annotation: Annotation) -> None:
        image_id, category_id = annotation.image_id, annotation.category_id
        if annotation.is_crowd:
            self._num["crowds"] += 1
            self._crowded.setdefault(image_id, set()).add(category_id)
            return
        segmentation = self._segmentation(annotation)
        made = {
            "id": self._num["annotations"] + 1,
            "image_id": image_id,
            "category_id": category_id,
            "bbox": annotation.box,
            "area": self._area(annotation, segmentation) if annotation.area is None else annotation.area,
            "segmentation": segmentation,
        }
        if annotation.is_ignored:
            made["ignore"] = 1
        text = json.dumps(made)
        self._output.write(f"{',' if self._num['annotations'] else ''}\n{text}")
        self._num["annotations"] += 1
        if annotation.is_ignored:
            self._num["ignored"] += 1
            self._ignored.setdefault(image_id, set()).add(category_id)
            return
        self._present.setdefault(image_id, set()).add(category_id)
        self._instances[category_id] = self._instances.get(category_id, 0) + 1

    def _segmentation(self, annotation: Annotation) -> list | dict:
        segmentation = annotation.segmentation
        if segmentation is None:
            self._num["boxes"] += 1
            x, y, width, height = annotation.box
            return [[x, y, x + width, y, x + width, y + height, x, y + height]]
        if isinstance(segmentation, dict):
            self._num["rles"] += 1
            is_list = isinstance(segmentation.get("counts"), list)
            # Checked before pycocotools decodes it, which does not check its input.
            if (is_list or annotation.area is None) and (problem := rle_problem(segmentation)):
                raise ValueError(problem)
            if is_list:
                segmentation = mask_util.frPyObjects(segmentation, *segmentation["size"])
                segmentation["counts"] = segmentation["counts"].decode("ascii")
        return segmentation

    def _area(self, annotation: Annotation, segmentation: list | dict) -> float:
        """Area of the mask; without a mask, area of the box, which the evaluation of boxes uses for detections too."""
        if annotation.segmentation is None:
            return float(annotation.box[2] * annotation.box[3])
        image = self._images.get(annotation.image_id)
        if image is not None:
            return mask_area(segmentation, image.width, image.height)
        if self._sizes is None:
            self._sizes = self._read_sizes()
        # Annotations of unknown images are refused at the end.
        return mask_area(segmentation, *self._sizes.get(annotation.image_id, (1, 1)))

    def _read_sizes(self) -> dict[int, tuple[int, int]]:
        """Sizes of all images, from a second pass, because areas need them and annotations came first."""
        with open(self._json_file, "rb") as file:
            images = (record for _, record in read_records(file, optional=LISTS) if isinstance(record, Image))
            return {image.id: (image.width, image.height) for image in images}

    def finish(self, report: Report, train: TrainCounts | None, source: Mapping[str, int]) -> ConversionSummary:
        """
        Write images, categories and the summary.

        Raises:
            InputError: if the file is valid, but can't be converted.
        """
        if self._unusable:
            raise InputError(f"Annotations {self._json_file} can't be used: {self._unusable}.")
        if not self._images or not self._categories:
            raise InputError(
                f"Annotations {self._json_file} have {len(self._images)} images and {len(self._categories)} "
                "categories; at least one of each is needed."
            )
        summary = self._summary(source, train)
        image_count = train.image_count if train else summary.image_count
        if train and len(image_count) != len(summary.category_ids):
            raise InputError(
                f"Annotations {self._json_file} have {len(summary.category_ids)} categories, but {train.owner} has "
                f"{len(image_count)}. Give both the same list of categories."
            )
        images = list(self._images.values())
        layout, found = choose_layout(self._image_root, images)
        paths, problems = self._paths([layout.path(image) for image in images])
        report = dataclasses.replace(report, problems=(*report.problems, *problems))
        summary = dataclasses.replace(summary, images_found=found, report=report)
        self._output.write('\n],\n"images": [')
        self._write_list(self._image(image, path, summary) for image, path in zip(images, paths))
        self._output.write('\n],\n"categories": [')
        self._write_list(self._categories_of(summary, image_count, known=train is not None))
        info = {"format": FORMAT, **dataclasses.asdict(summary)}
        self._output.write(f'\n],\n"info": {json.dumps(info)}}}\n')
        return summary

    def _summary(self, source: Mapping[str, int], train: TrainCounts | None) -> ConversionSummary:
        ids = sorted(self._categories)
        image_count = dict.fromkeys(ids, 0)
        for present in self._present.values():
            for category_id in present:
                image_count[category_id] += 1
        federated = any(image.negative is not None for image in self._images.values())
        return ConversionSummary(
            source=dict(source),
            category_ids=ids,
            class_names=[self._categories[i].class_name for i in ids],
            image_count=list(image_count.values()),
            instance_count=[self._instances.get(i, 0) for i in ids],
            num_images=len(self._images),
            num_crowds=self._num["crowds"],
            num_ignored=self._num["ignored"],
            num_rles=self._num["rles"],
            num_boxes=self._num["boxes"],
            federated=federated,
            groups=self._groups(train),
            groups_problem=frequency.groups_problem(self._contents()),
        )

    def _contents(self) -> list[dict]:
        """The category records of the file."""
        return [category.content for category in self._categories.values()]

    def _groups(self, train: TrainCounts | None) -> str:
        if frequency.has_own_groups(self._contents()):
            return frequency.FILE
        return frequency.TRAINING if train else frequency.OWN_IMAGES

    def _paths(self, paths: list[str]) -> tuple[list[str], Sequence[Problem]]:
        """The files of all images, and problems of their paths."""
        for path in paths:
            if problem := path_problem(path):
                raise InputError(f"Annotations {self._json_file}: {path!r:.100}, the path of an image, {problem}.")
        found, findings = find_images(self._image_root, paths), Findings(Problem)
        report_respelled(findings, paths, found)
        return [file or path for file, path in zip(found, paths)], findings.problems()

    def _image(self, image: Image, path: str, summary: ConversionSummary) -> dict:
        present, crowded, ignored = (of.get(image.id, set()) for of in (self._present, self._crowded, self._ignored))
        negative = image.negative or []
        if not summary.federated:
            known = present | crowded | ignored
            negative = [i for i in summary.category_ids if i not in known]
        return {
            "id": image.id,
            "width": image.width,
            "height": image.height,
            "file_name": path,
            "neg_category_ids": negative,
            "not_exhaustive_category_ids": sorted({*(image.not_exhaustive or ()), *crowded}),
        }

    def _categories_of(self, summary: ConversionSummary, image_count: list[int], known: bool):
        """``known``: whether ``image_count`` is that of training images. If not, the file's own number is preferred."""
        own_groups = summary.groups == frequency.FILE
        for i, images, instances in zip(summary.category_ids, image_count, summary.instance_count):
            category = self._categories[i].content
            own_count = category.get("image_count")
            yield {
                **category,
                "frequency": category["frequency"] if own_groups else frequency_group(images),
                "image_count": own_count if own_groups and not known and type(own_count) is int else images,
                "instance_count": instances,
            }

    def _write_list(self, elements) -> None:
        for number, element in enumerate(elements):
            self._output.write(f"{',' if number else ''}\n{json.dumps(element)}")
