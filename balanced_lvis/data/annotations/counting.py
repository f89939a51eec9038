"""Class counts of an annotation file that need not be registered, in one pass over the file."""

from __future__ import annotations

import os
from array import array
from collections import Counter

import numpy as np

from ...priors import ALL, WITH_OBJECTS, ClassPrior
from ...utils.errors import InputError
from ..box_centres import centres_of_boxes, dimension_of_centres
from ..validation.validation_report import KINDS
from .annotation_reader import Annotation, Category, Image, RecordError, read_records
from .reading import open_annotations


def count_classes(
    json_file: str | os.PathLike, progress: bool = False, filter_empty: bool = True, boxes: bool = False
) -> ClassPrior:
    """
    Count the classes of an annotation file in COCO or LVIS format, without crowd regions and ignored objects, as they
    are used for training.

    Every record must be readable. Masks are not checked, and nothing is written.

    Args:
        json_file: path of the annotation file.
        progress: show a progress bar on a terminal.
        filter_empty: N counts only images with objects, as ``DATALOADER.FILTER_EMPTY_ANNOTATIONS``; False: all.
        boxes: also compute the fractal dimension of the box centres of each class.

    Returns:
        the prior, with the classes by ascending category id.

    Raises:
        InputError: if the file can't be read, or its annotations refer to missing images or categories.
    """
    counts = _Counts(boxes)
    with open_annotations(json_file, "Counting", progress, refusal="can't be counted") as (_, file):
        for key, record in read_records(file):
            if isinstance(record, RecordError):
                raise InputError(f"Annotations {json_file} can't be counted: in {key!r}, {record.named}.")
            counts.add(record)
    return counts.prior(str(json_file), filter_empty)


class _Counts:
    def __init__(self, with_boxes: bool):
        self.images: dict[int, tuple[int, int]] = {}  # image id -> width, height
        self.names: dict[int, str] = {}
        self.instances: dict[tuple[int, int], int] = Counter()  # image id, category id -> objects
        self.num_others = 0  # crowd regions and ignored objects
        self.with_boxes = with_boxes
        self.places = array("q")  # image id and category id of each object, if boxes are needed
        self.boxes = array("d")  # x, y, width and height of each object

    def add(self, record: Image | Category | Annotation) -> None:
        """Count a record."""
        if isinstance(record, Image):
            self.images[record.id] = (record.width, record.height)
        elif isinstance(record, Category):
            self.names[record.id] = record.class_name
        elif record.is_object:
            self.instances[record.image_id, record.category_id] += 1
            if self.with_boxes:
                self.places.extend((record.image_id, record.category_id))
                self.boxes.extend(record.box)
        else:
            self.num_others += 1

    def prior(self, json_file: str, filter_empty: bool) -> ClassPrior:
        """
        Raises:
            InputError: if there are no images, categories or objects, or annotations of other images or categories.
        """
        if not self.images or not self.names:
            raise InputError(
                f"Annotations {json_file} have {len(self.images)} images and {len(self.names)} categories; there is "
                "nothing to count."
            )
        if self.num_others and not self.instances:
            kind = KINDS["no_objects"]
            raise InputError(f"Annotations {json_file} have {self.num_others:,} {kind.title}. {kind.remedy}")
        image_count, instance_count = dict.fromkeys(self.names, 0), dict.fromkeys(self.names, 0)
        for (image_id, category_id), count in self.instances.items():
            if image_id not in self.images or category_id not in self.names:
                what = "image" if image_id not in self.images else "category"
                value = image_id if what == "image" else category_id
                raise InputError(f"Annotations {json_file} refer to {what} {value!r}, which the file doesn't contain.")
            image_count[category_id] += 1
            instance_count[category_id] += count
        ids = sorted(self.names)
        occupied = {image_id for image_id, _ in self.instances}
        if filter_empty and not occupied:
            raise InputError(
                f"Annotations {json_file} have no object in any of {len(self.images):,} images; there is nothing to "
                "count."
            )
        return ClassPrior(
            tuple(self.names[i] for i in ids),
            np.array([image_count[i] for i in ids]),
            len(occupied) if filter_empty else len(self.images),
            np.array([instance_count[i] for i in ids]),
            WITH_OBJECTS if filter_empty else ALL,
            fractal_dimension=self._fractal_dimension(ids) if self.with_boxes else None,
        )

    def _fractal_dimension(self, ids: list[int]) -> np.ndarray:
        """(K,), for the classes with these category ids, in ascending order."""
        image_ids, category_ids = np.array(self.places, np.int64).reshape(-1, 2).T
        sizes = np.array([self.images[image_id] for image_id in image_ids.tolist()], np.float64).reshape(-1, 2)
        centres = centres_of_boxes(np.array(self.boxes).reshape(-1, 4), *sizes.T)
        return dimension_of_centres(np.searchsorted(np.array(ids), category_ids), centres, len(ids))
