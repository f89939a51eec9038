"""A limit on the stored detections of each category over the dataset, for AP-fixed."""

from __future__ import annotations

import numpy as np

from .lvis_api import MAX_DETECTIONS_PER_IMAGE


class CategoryLimit:
    """
    Selects, image by image, the detections that may be among the best of their category over the dataset.

    A detection is dropped only if ``limit`` detections of its category so far have higher scores, and it is not among
    the 300 best of its image. So AP, AP-fixed and AP-pool are the same as with all detections.

    Args:
        limit: number of detections per category.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self._least: dict[int, float] = {}  # class -> lowest score of the best so far, once there are ``limit``
        self._scores: dict[int, list[np.ndarray]] = {}
        self._counts: dict[int, int] = {}

    def select(self, scores: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """
        Args:
            scores: (N,) of the detections of an image.
            classes: (N,) their class indices.

        Returns:
            (N,) bool, True for detections to keep.
        """
        scores = np.asarray(scores, np.float64)
        kept = scores >= np.array([self._least.get(index, -np.inf) for index in classes.tolist()], np.float64)
        for index in np.unique(classes[kept]).tolist():
            self._add(index, scores[kept & (classes == index)])
        kept[np.argsort(-scores, kind="stable")[:MAX_DETECTIONS_PER_IMAGE]] = True
        return kept

    def _add(self, index: int, scores: np.ndarray) -> None:
        self._scores.setdefault(index, []).append(scores)
        self._counts[index] = self._counts.get(index, 0) + len(scores)
        # Sorted only when there are twice as many as needed.
        if self._counts[index] >= 2 * self.limit:
            every = np.concatenate(self._scores[index])
            best = np.partition(every, len(every) - self.limit)[-self.limit :]
            self._scores[index], self._counts[index] = [best], self.limit
            self._least[index] = float(best.min())
