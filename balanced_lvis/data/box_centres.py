"""The centres of the boxes of a dataset, from which the fractal dimension of each class is computed."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import numpy as np
from detectron2.structures import BoxMode

from ..priors import ClassLists, fractal_dimension
from ..utils.errors import InputError

logger = logging.getLogger(__name__)


@runtime_checkable
class HasBoxCentres(Protocol):
    """A dataset that provides its box centres without building a record of every image."""

    def box_centres(self) -> np.ndarray:
        """(A, 2), as :func:`box_centres`."""


def box_centres(records) -> np.ndarray:
    """
    Args:
        records: images in Detectron2's standard format, or a dataset that implements :class:`HasBoxCentres`.

    Returns:
        (A, 2) float64, x and y of the centre of each object's box as fractions of the image's width and height, image
        after image as in :class:`~balanced_lvis.priors.ClassLists`. NaN or infinite for a box that is not finite, or
        an image of size 0.

    Raises:
        InputError: if a record has no size, or an annotation no box.
    """
    if isinstance(records, HasBoxCentres):
        return records.box_centres()
    centres = [_centres_of(record) for record in records]
    return np.concatenate([np.zeros((0, 2)), *centres])


def dimension_of_records(records, num_classes: int) -> np.ndarray:
    """
    (K,) fractal dimension of the box centres of each class.

    Args:
        records: as for :func:`box_centres`.
        num_classes: K.

    Raises:
        InputError: as :func:`box_centres`, or if a class is outside 0..K-1.
    """
    lists = ClassLists.of(records)
    lists.check(num_classes)
    return dimension_of_centres(lists.classes, box_centres(records), num_classes)


def dimension_of_centres(classes: np.ndarray, centres: np.ndarray, num_classes: int) -> np.ndarray:
    """As :func:`~balanced_lvis.priors.fractal_dimension`, without boxes that are not finite, which are logged."""
    usable = np.isfinite(centres).all(axis=1)
    if not usable.all():
        logger.warning(
            "%d of %d boxes are not finite, and are left out of the fractal dimensions.", (~usable).sum(), len(usable)
        )
    return fractal_dimension(classes[usable], centres[usable], num_classes)


def centres_of_boxes(boxes: np.ndarray, width, height) -> np.ndarray:
    """
    Args:
        boxes: (A, 4), x, y, width and height in pixels.
        width, height: of the image, or (A,) of each box's image.

    Returns:
        (A, 2), the centres as fractions of the image.
    """
    # An image may have a size of 0; the centres of its boxes are not finite.
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        x, y = boxes[:, 0] + boxes[:, 2] / 2, boxes[:, 1] + boxes[:, 3] / 2
        return np.stack([x / width, y / height], axis=1)


def _centres_of(record: Mapping) -> np.ndarray:
    annotations = [a for a in record.get("annotations", ()) if not a.get("iscrowd", 0)]
    if not annotations:
        return np.zeros((0, 2))
    try:
        width, height = record["width"], record["height"]
        boxes = [BoxMode.convert(list(a["bbox"]), a["bbox_mode"], BoxMode.XYWH_ABS) for a in annotations]
    except KeyError as error:
        raise InputError(
            f"Image {record.get('image_id')!r} has no {error.args[0]!r}, which the fractal dimension of its classes "
            "needs; add it to the records of the dataset."
        ) from error
    return centres_of_boxes(np.array(boxes, np.float64), width, height)
