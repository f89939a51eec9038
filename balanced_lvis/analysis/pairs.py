"""
IoUs of detections and objects of the same image, of any categories.

Only pairs with an IoU of at least :data:`MIN_IOU` are kept: a lower one changes nothing in this package.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as mask_util

from ..evaluation.backends import GroundTruth, mask_areas
from ..evaluation.detection_store import Detections

# The threshold below which a detection is on the background (TIDE), and the lowest at which one is matched (LaECE).
MIN_IOU = 0.1
# Detections whose masks are in memory at a time.
BLOCK = 50_000


@dataclass(frozen=True)
class Pairs:
    """
    Attributes:
        detections: (P,) index of the detection.
        objects: (P,) index of the object.
        ious: (P,) IoU.
    """

    detections: np.ndarray
    objects: np.ndarray
    ious: np.ndarray

    def __getitem__(self, chosen: np.ndarray) -> Pairs:
        return Pairs(self.detections[chosen], self.objects[chosen], self.ious[chosen])

    def __len__(self) -> int:
        return len(self.ious)


def areas_and_pairs(
    truth: GroundTruth, detections: Detections, rows: np.ndarray, images: np.ndarray, iou_type: str
) -> tuple[np.ndarray, Pairs]:
    """
    Args:
        truth: ground truth with G objects.
        detections: stored detections.
        rows: (M,) rows of the stored detections.
        images: (M,) rank of the image of each.
        iou_type: "bbox" or "segm".

    Returns:
        (M,) areas in pixels, and the pairs, by indices 0..M-1 and 0..G-1.
    """
    regions: Any = BoxRegions(truth, detections) if iou_type == "bbox" else MaskRegions(truth, detections)
    areas = np.zeros(len(rows))
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for chosen, by_image in blocks_of_images(rows, images, truth):
        found = regions.found(rows[chosen])
        areas[chosen] = regions.areas(found)
        for own, objects in by_image:
            ious = regions.ious(found[own] if isinstance(found, np.ndarray) else [found[i] for i in own], objects)
            first, second = np.nonzero(ious >= MIN_IOU)
            parts.append((chosen[own[first]], objects[second], ious[first, second]))
    columns = list(zip(*parts)) or [(np.zeros(0, np.int64),), (np.zeros(0, np.int64),), (np.zeros(0),)]
    return areas, Pairs(*(np.concatenate(column) for column in columns))


def blocks_of_images(
    rows: np.ndarray, images: np.ndarray, truth: GroundTruth
) -> Iterator[tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]]]]:
    """
    Yields:
        (m,) indices of the detections of some images, by ascending row; and for each image with objects, indices into
        these m, and indices of its objects.
    """
    order = np.argsort(images, kind="stable")
    objects = np.argsort(truth.images, kind="stable")
    number = len(truth.image_ids)
    first = np.searchsorted(images[order], np.arange(number + 1))
    first_object = np.searchsorted(truth.images[objects], np.arange(number + 1))
    begin = 0
    while begin < number:
        end = max(int(np.searchsorted(first, first[begin] + BLOCK, side="right")) - 1, begin + 1)
        chosen = order[first[begin] : first[end]]
        chosen = chosen[np.argsort(rows[chosen], kind="stable")]
        grouped = np.argsort(images[chosen], kind="stable")
        by_image = []
        for image in range(begin, end):
            own = grouped[first[image] - first[begin] : first[image + 1] - first[begin]]
            its_objects = objects[first_object[image] : first_object[image + 1]]
            if len(own) and len(its_objects):
                by_image.append((own, its_objects))
        yield chosen, by_image
        begin = end


class BoxRegions:
    """Boxes of detections and objects."""

    def __init__(self, truth: GroundTruth, detections: Detections):
        self._boxes = detections.boxes
        self._objects = np.array([a["bbox"] for a in truth.annotations], np.float64).reshape(-1, 4)

    def found(self, rows: np.ndarray) -> np.ndarray:
        """(m, 4) float64 boxes of detections."""
        return self._boxes[rows].astype(np.float64)

    @staticmethod
    def areas(found: np.ndarray) -> np.ndarray:
        """(m,) areas."""
        return found[:, 2] * found[:, 3]

    def ious(self, found: np.ndarray, objects: np.ndarray) -> np.ndarray:
        """(m, g) IoUs of detections and objects."""
        return mask_util.iou(found, self._objects[objects], [0] * len(objects))


class MaskRegions:
    """RLE masks of detections and objects."""

    def __init__(self, truth: GroundTruth, detections: Detections):
        self._detections = detections
        self._truth = truth

    def found(self, rows: np.ndarray) -> list[dict]:
        """m RLE masks of detections, whose rows are ascending."""
        return list(self._detections.rles(rows))

    @staticmethod
    def areas(found: list[dict]) -> np.ndarray:
        """(m,) areas."""
        return mask_areas(found)

    def ious(self, found: list[dict], objects: np.ndarray) -> np.ndarray:
        """(m, g) IoUs of detections and objects."""
        return mask_util.iou(found, self.objects(objects), [0] * len(objects))

    def objects(self, objects: np.ndarray) -> list[dict]:
        """RLE masks of objects."""
        return [self._truth.mask(index) for index in objects.tolist()]
