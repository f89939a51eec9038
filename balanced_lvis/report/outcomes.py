"""
What became of each object and detection of one run: found or missed, right or wrong.

Shape shorthand: N detections that count, G objects, I images, K categories.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..analysis import Matches
from ..analysis.error_types import AT_50, counted
from ..analysis.model import CategoryResult


@dataclass(frozen=True)
class RunOutcomes:
    """
    The detections of one run that count and are not ignored, at an IoU threshold of 0.5.

    They are ordered by category, then by falling score.

    Attributes:
        thresholds: (K,) score threshold of each category with the highest F1; infinite without true positives.
        rows: (N,) rows of the stored detections.
        images, categories: (N,) ranks.
        scores: (N,) scores.
        true: (N,) bool, true positives.
        objects: (N,) index of the matched object, or of the object that an error is about; -1 without one.
        errors: (N,) index in :data:`balanced_lvis.analysis.error_types.ERROR_TYPES`; -1 for true positives.
        object_images, object_categories: (G,) ranks.
        object_areas: (G,) areas in pixels.
    """

    thresholds: np.ndarray
    rows: np.ndarray
    images: np.ndarray
    categories: np.ndarray
    scores: np.ndarray
    true: np.ndarray
    objects: np.ndarray
    errors: np.ndarray
    object_images: np.ndarray
    object_categories: np.ndarray
    object_areas: np.ndarray

    @property
    def shown(self) -> np.ndarray:
        """(N,) bool: whether the score reaches the threshold of the category."""
        return self.scores >= self.thresholds[self.categories]

    def matches(self) -> np.ndarray:
        """(G,) index of the detection that matches each object, at any score; -1 without one."""
        found = np.full(len(self.object_images), -1, np.int64)
        true = np.flatnonzero(self.true)
        found[self.objects[true]] = true
        return found

    def found(self) -> np.ndarray:
        """(G,) bool: whether an object is matched by a detection that reaches the threshold of its category."""
        found = np.zeros(len(self.object_images), bool)
        found[self.objects[self.true & self.shown]] = True
        return found

    def image_counts(self, number: int) -> ImageCounts:
        """
        Args:
            number: number of images.
        """

        def count(chosen: np.ndarray) -> np.ndarray:
            return np.bincount(self.images[chosen], minlength=number)

        return ImageCounts(
            count(self.shown & self.true),
            count(self.shown & ~self.true),
            np.bincount(self.object_images[~self.found()], minlength=number),
        )


@dataclass(frozen=True)
class ImageCounts:
    """
    Attributes:
        true, false: (I,) number of true and false positives that reach the thresholds.
        missed: (I,) number of objects without such a true positive.
    """

    true: np.ndarray
    false: np.ndarray
    missed: np.ndarray

    def f1(self) -> np.ndarray:
        """(I,) F1 of each image in 0..1; NaN for an image without objects and false positives."""
        total = 2 * self.true + self.false + self.missed
        return np.divide(2 * self.true, total, out=np.full(len(total), np.nan), where=total > 0)


def outcomes_of(matches: Matches, categories: list[CategoryResult]) -> RunOutcomes:
    """
    Args:
        matches: of a task.
        categories: their results, in the order of the categories' ids.
    """
    table, errors = matches.table, matches.errors
    true, kept = counted(table)
    thresholds = np.array([category.best_f1.threshold for category in categories], np.float64)
    objects = np.where(true, table.matched_objects(AT_50), errors.objects)
    return RunOutcomes(
        np.where(np.isnan(thresholds), np.inf, thresholds),
        table.rows[kept],
        table.images[kept],
        table.categories[kept],
        table.scores[kept],
        true[kept],
        objects[kept],
        errors.types[kept],
        table.objects.images,
        table.objects.categories,
        table.objects.areas,
    )
