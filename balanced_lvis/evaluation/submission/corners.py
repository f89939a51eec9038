"""Boxes that were written as two corners, [x1, y1, x2, y2], where [x, y, width, height] is meant."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...utils.findings import SHOWN
from .image_list import ImageList

_TOLERANCE = 1.0  # pixels over the edge of the image, as rounding makes them
_SHARE = 0.1  # of all boxes that have to leave their image


class CornerBoxes:
    """
    Compares both readings of all boxes of a file.

    About half of the boxes that are two corners leave their image if they are read as [x, y, width, height]. Read as
    corners, boxes of [x, y, width, height] are seldom all sound: the width would have to be more than x in every one.

    Args:
        images: of the dataset.

    Attributes:
        leaving: boxes so far that leave their image as [x, y, width, height].
    """

    def __init__(self, images: ImageList):
        self._images = images
        self._all_fit_as_corners = True
        self._num = 0
        self.leaving = 0
        self._examples: list[str] = []

    def add(self, rows: Sequence, images: np.ndarray, known: np.ndarray) -> None:
        """
        Args:
            rows: N detections with boxes.
            images: (N,) index of every one's image among the dataset's.
            known: (N,) bool, whether it is one of the dataset's.
        """
        if not self._all_fit_as_corners:
            return
        boxes = np.array([row.box for row in rows], np.float64)
        used = np.flatnonzero(known & np.isfinite(boxes).all(axis=1))
        boxes = boxes[used]
        size = np.stack([self._images.widths[images[used]], self._images.heights[images[used]]], axis=1) + _TOLERANCE
        low, second = boxes[:, :2], boxes[:, 2:]
        fits = (low >= -_TOLERANCE) & (second >= low) & (second <= size)
        self._all_fit_as_corners = bool(fits.all())
        with np.errstate(over="ignore"):
            leaves = np.flatnonzero((low + second > size).any(axis=1))
        self._num += len(used)
        self.leaving += len(leaves)
        for index in leaves[: SHOWN - len(self._examples)].tolist():
            row, (width, height) = rows[used[index]], (size[index] - _TOLERANCE).astype(int).tolist()
            self._examples.append(f"number {row.position} of image {row.image_id} ({width} x {height}), bbox {row.box}")

    def examples(self) -> list[str]:
        """The first boxes that leave their image, in words; empty where the boxes aren't taken for corners."""
        if not self._all_fit_as_corners or self.leaving < max(1, _SHARE * self._num):
            return []
        return self._examples
