"""
Boundary AP: matches by the lower one of mask IoU and boundary IoU.

Cheng et al., "Boundary IoU: Improving Object-Centric Image Segmentation Evaluation", CVPR 2021. The boundary of a mask
are its pixels within d pixels of the outside, where d is 2% of the image diagonal and pixels beyond the image are
outside. Distances are those of a (2d + 1) x (2d + 1) square, as in the authors' code.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import cv2
import numpy as np
from pycocotools import mask as mask_util

from ..evaluation.backends import no_garbage_collection
from ..evaluation.detection_store import Detections
from ..evaluation.submission.compressed_rle import run_lengths
from .matching import THRESHOLDS, MatchTable
from .pairs import MaskRegions, Pairs

DILATION_RATIO = 0.02
# Pairs whose boundaries are in memory at a time.
PAIRS_AT_ONCE = 5000
AT_ONCE = 255  # pycocotools stores the length of a list in 8 bits


@dataclass(frozen=True)
class Region:
    """
    A part of an image.

    Attributes:
        left, top: position of the first pixel.
        pixels: (w, h) uint8, 1 inside, by column and row.
    """

    left: int
    top: int
    pixels: np.ndarray

    def intersection(self, other: Region) -> int:
        """Number of pixels that are inside both."""
        left, top = max(self.left, other.left), max(self.top, other.top)
        right = min(self.left + self.pixels.shape[0], other.left + other.pixels.shape[0])
        bottom = min(self.top + self.pixels.shape[1], other.top + other.pixels.shape[1])
        if right <= left or bottom <= top:
            return 0
        mine, others = (r.pixels[left - r.left : right - r.left, top - r.top : bottom - r.top] for r in (self, other))
        return int(np.count_nonzero(mine & others))


@functools.lru_cache(1024)
def dilation_of(height: int, width: int) -> int:
    """d in pixels."""
    return max(1, round(DILATION_RATIO * math.sqrt(height**2 + width**2)))


def mask_region(runs: np.ndarray, box: tuple[int, int, int, int], height: int) -> Region:
    """
    The bounding box of a mask.

    Args:
        runs: alternating runs outside and inside, in columns from top to bottom, of a mask with at least one pixel. The
            first and the last are outside, and may be 0.
        box: x, y, w, h of the bounding box.
        height: height of the image.
    """
    left, top, width, rows = box
    lengths = runs.copy()
    lengths[0] -= left * height
    lengths[-1] += width * height - int(lengths.sum())
    values = np.zeros(len(runs), np.uint8)
    values[1::2] = 1
    return Region(left, top, np.repeat(values, lengths).reshape(width, height)[:, top : top + rows])


def boundary_region(region: Region, dilation: int) -> Region:
    """The boundary of a mask."""
    if min(region.pixels.shape) <= 2 * dilation:
        return region
    square = np.ones((2 * dilation + 1,) * 2, np.uint8)
    pixels = np.ascontiguousarray(region.pixels)
    interior = cv2.erode(pixels, square, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return Region(region.left, region.top, pixels - interior)


@no_garbage_collection()
def boundary_table(table: MatchTable, detections: Detections) -> MatchTable:
    """
    The table with boundary IoUs.

    Args:
        table: matches of masks.
        detections: the stored detections.
    """
    # Neither IoU alone can raise the lower one: below the lowest threshold, a pair matches in no case.
    pairs = table.pairs[table.same_category & (table.pairs.ious >= THRESHOLDS[0])]
    ious = pairs.ious.copy()
    masks = MaskRegions(table.truth, detections)
    images = table.images[pairs.detections]
    order = np.argsort(images, kind="stable")
    for begin in range(0, len(order), PAIRS_AT_ONCE):
        part = order[begin : begin + PAIRS_AT_ONCE]
        distinct, mine = np.unique(table.rows[pairs.detections[part]], return_inverse=True)
        objects, others = np.unique(pairs.objects[part], return_inverse=True)
        ious[part] = lower_ious(masks.found(distinct), masks.objects(objects), mine, others, ious[part])
    return table.with_ious(Pairs(pairs.detections, pairs.objects, ious))


def lower_ious(
    found: list[dict], annotated: list[dict], first: np.ndarray, second: np.ndarray, ious: np.ndarray
) -> np.ndarray:
    """
    Args:
        found, annotated: RLE masks.
        first, second: (p,) indices of the masks of p pairs, which overlap.
        ious: (p,) mask IoU of each pair.

    Returns:
        (p,) lower one of mask and boundary IoU.
    """
    sides = _Boxes(found), _Boxes(annotated)
    # The boundary of a thin mask is the mask. Of two thin masks, both IoUs are equal.
    needed = np.flatnonzero(sides[0].thick[first] | sides[1].thick[second])
    boundaries = [
        _Boundaries(masks, own, np.unique(used[needed]))
        for masks, own, used in zip((found, annotated), sides, (first, second))
    ]
    result = ious.copy()
    for index, one, other in zip(needed.tolist(), first[needed].tolist(), second[needed].tolist()):
        (mine, my_size), (others, their_size) = boundaries[0][one], boundaries[1][other]
        shared = mine.intersection(others)
        result[index] = min(ious[index], shared / (my_size + their_size - shared))
    return result


class _Boxes:
    """
    Bounding boxes of masks.

    Attributes:
        boxes: (N, 4) int64 x, y, w, h.
        dilations: (N,) d of their images.
        thick: (N,) bool, whether a mask may have pixels that are not on its boundary.
    """

    def __init__(self, masks: list[dict]):
        parts = [mask_util.toBbox(masks[begin : begin + AT_ONCE]) for begin in range(0, len(masks), AT_ONCE)]
        self.boxes = np.concatenate([np.zeros((0, 4)), *parts]).astype(np.int64)
        self.dilations = np.array([dilation_of(*mask["size"]) for mask in masks], np.int64)
        self.thick = self.boxes[:, 2:].min(axis=1, initial=np.iinfo(np.int64).max) > 2 * self.dilations


class _Boundaries:
    """The boundaries of some masks, with their numbers of pixels, by index."""

    def __init__(self, masks: list[dict], sides: _Boxes, chosen: np.ndarray):
        self._regions = {}
        decoded = run_lengths([masks[index]["counts"] for index in chosen.tolist()])
        boxes, dilations = sides.boxes[chosen].tolist(), sides.dilations[chosen].tolist()
        for index, runs, box, dilation in zip(chosen.tolist(), decoded, boxes, dilations):
            region = boundary_region(mask_region(runs, box, masks[index]["size"][0]), dilation)
            self._regions[index] = region, int(np.count_nonzero(region.pixels))

    def __getitem__(self, index: int) -> tuple[Region, int]:
        return self._regions[index]
