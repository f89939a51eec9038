"""
Error types in the manner of TIDE, by the rules of LVIS, and the AP that each costs.

Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection Errors", ECCV 2020. A detection of a category
whose presence in the image is unknown is not counted, and so is no error; a false positive of a category that is not
annotated exhaustively is ignored, and so is none either.

Shape shorthand: M detections, G objects, K categories, E error types.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .average_precision import curve
from .matching import ALL_AREAS, AREA_NAMES, AREA_RANGES, FALSE, TRUE, MatchTable
from .pairs import MIN_IOU

FOREGROUND_IOU, BACKGROUND_IOU = 0.5, MIN_IOU
AT_50 = 0  # index of the IoU threshold 0.5
CLASSIFICATION, LOCALISATION, BOTH, DUPLICATE, BACKGROUND, MISSED = ERROR_TYPES = (
    "classification", "localisation", "both", "duplicate", "background", "missed",
)  # fmt: skip
NO_ERROR = -1
SIZES = AREA_NAMES[1:]


@dataclass(frozen=True)
class Errors:
    """
    The errors at an IoU threshold of 0.5, for all areas.

    Attributes:
        types: (M,) index in :data:`ERROR_TYPES` of each detection; -1 for true positives and ignored detections.
        objects: (M,) the object that a classification, localisation or duplicate error is about; otherwise -1.
        fixes: (M,) bool, whether correcting a classification or localisation error makes it a true positive: its object
            is not found, and no such error with a higher score is about the same object.
        missed: (G,) bool, objects that are neither found nor the object of a classification or localisation error.
    """

    types: np.ndarray
    objects: np.ndarray
    fixes: np.ndarray
    missed: np.ndarray


def find_errors(table: MatchTable) -> Errors:
    """
    Assign each false positive to the first type whose condition it meets, in the order of the authors' code.

    Localisation: IoU of 0.1 to 0.5 with the nearest object of its category. Classification: IoU of at least 0.5 with an
    object of another category. Duplicate: IoU of at least 0.5 with an object of its category, which another detection
    has matched. Background: IoU of at most 0.1 with every object. Both: all others.
    """
    found = np.zeros(len(table.objects) + 1, bool)  # the last is that of no object, -1
    matched = table.matched_objects(AT_50)
    found[matched[matched >= 0]] = True
    same = table.same_category
    own_iou, own = _nearest(table, same)
    other_iou, other = _nearest(table, ~same)
    used_iou, used = _nearest(table, same & found[table.pairs.objects])
    conditions = {
        LOCALISATION: (own_iou >= BACKGROUND_IOU) & (own_iou <= FOREGROUND_IOU),
        CLASSIFICATION: other_iou >= FOREGROUND_IOU,
        DUPLICATE: used_iou >= FOREGROUND_IOU,
        BACKGROUND: np.maximum(own_iou, other_iou) <= BACKGROUND_IOU,
        BOTH: np.ones(len(table), bool),
    }
    false = table.status[AT_50, ALL_AREAS] == FALSE
    types = np.select([false & condition for condition in conditions.values()], list(map(_index, conditions)), NO_ERROR)
    nearest = {LOCALISATION: own, CLASSIFICATION: other, DUPLICATE: used}
    objects = np.select([types == _index(name) for name in nearest], list(nearest.values()), -1)
    candidates = ((types == _index(CLASSIFICATION)) | (types == _index(LOCALISATION))) & ~found[objects]
    fixes = _best_of_each(objects, table, candidates)
    missed = ~found[:-1] & ~table.objects.outside[ALL_AREAS]
    missed[objects[candidates]] = False
    return Errors(types, objects, fixes, missed)


def _index(name: str) -> int:
    return ERROR_TYPES.index(name)


def _nearest(table: MatchTable, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(M,) highest IoU in the chosen pairs, 0 without one; and (M,) its object, the first of equal ones, or -1."""
    pairs = table.pairs[chosen]
    order = np.lexsort((-pairs.objects, pairs.ious, pairs.detections))  # the last of a detection is the nearest
    ious, objects = np.zeros(len(table)), np.full(len(table), -1, np.int64)
    ious[pairs.detections[order]], objects[pairs.detections[order]] = pairs.ious[order], pairs.objects[order]
    return ious, objects


def _best_of_each(objects: np.ndarray, table: MatchTable, candidates: np.ndarray) -> np.ndarray:
    """(M,) bool: the candidate with the highest score of each object, of equal scores the first."""
    indices = np.flatnonzero(candidates)
    indices = indices[np.lexsort((table.rows[indices], -table.scores[indices]))]
    _, first = np.unique(objects[indices], return_index=True)
    best = np.zeros(len(table), bool)
    best[indices[first]] = True
    return best


@dataclass(frozen=True)
class RankedDetections:
    """
    True and false positives at an IoU threshold of 0.5.

    Attributes:
        categories: (N,) ranks of the categories.
        scores: (N,) scores.
        true: (N,) bool, true positives.
        num_objects: (K,) number of objects of each category.
    """

    categories: np.ndarray
    scores: np.ndarray
    true: np.ndarray
    num_objects: np.ndarray

    def average_precision(self, had_objects: np.ndarray) -> np.ndarray:
        """
        Args:
            had_objects: (K,) bool, categories that have objects in the dataset.

        Returns:
            (K,) AP50 in 0..1; NaN without objects in the dataset, 1 if all objects were removed.
        """
        order = np.lexsort((-self.scores, self.categories))
        categories, true = self.categories[order], self.true[order]
        bounds = np.searchsorted(categories, np.arange(len(had_objects) + 1))
        result = np.where(had_objects, 1.0, np.nan)
        for category in np.flatnonzero((self.num_objects > 0) & had_objects):
            own = true[bounds[category] : bounds[category + 1]]
            result[category] = curve(own, ~own, int(self.num_objects[category]))[0].mean()
        return result


def counted(table: MatchTable) -> tuple[np.ndarray, np.ndarray]:
    """(M,) bool: true positives, and detections that are not ignored, at an IoU threshold of 0.5."""
    status = table.status[AT_50, ALL_AREAS]
    return status == TRUE, (status == TRUE) | (status == FALSE)


def fix_errors(table: MatchTable, errors: Errors, name: str, detections: np.ndarray, objects: np.ndarray):
    """
    Correct errors of one type.

    Args:
        name: one of :data:`ERROR_TYPES`.
        detections: (M,) bool, whether an error of this detection is corrected.
        objects: (G,) bool, whether a missed object is removed.

    Returns:
        the corrected :class:`RankedDetections`.
    """
    true, kept = counted(table)
    num_objects = table.objects.per_category(table.num_categories)
    if name == MISSED:
        gone = table.objects.categories[errors.missed & objects]
        num_objects = num_objects - np.bincount(gone, minlength=table.num_categories)
        return RankedDetections(table.categories[kept], table.scores[kept], true[kept], num_objects)
    changed = (errors.types == _index(name)) & detections
    fixed = changed & errors.fixes
    categories = np.where(fixed, table.objects.categories[errors.objects], table.categories)
    kept = kept & (~changed | fixed)
    return RankedDetections(categories[kept], table.scores[kept], (true | fixed)[kept], num_objects)


def error_areas(table: MatchTable, errors: Errors) -> np.ndarray:
    """(M,) area of the object that an error is about; of the detection, if there is none."""
    return np.where(errors.objects >= 0, np.append(table.objects.areas, 0)[errors.objects], table.areas)


def ap_lost(table: MatchTable, errors: Errors) -> tuple[np.ndarray, np.ndarray]:
    """
    AP50 that each error type costs: AP50 with all its errors corrected, minus AP50.

    Returns:
        (E, K) of each category, and (E, S) mean over categories when only errors of each of :data:`SIZES` are
        corrected; in percent.
    """
    all_detections, all_objects = np.ones(len(table), bool), np.ones(len(table.objects), bool)
    true, kept = counted(table)
    number = table.objects.per_category(table.num_categories)
    had_objects = number > 0
    ranked = RankedDetections(table.categories[kept], table.scores[kept], true[kept], number)
    before = ranked.average_precision(had_objects)

    def lost(name: str, detections: np.ndarray, objects: np.ndarray) -> np.ndarray:
        return 100 * (fix_errors(table, errors, name, detections, objects).average_precision(had_objects) - before)

    by_category = np.stack([lost(name, all_detections, all_objects) for name in ERROR_TYPES])
    areas = error_areas(table, errors)
    by_size = np.zeros((len(ERROR_TYPES), len(SIZES)))
    for size, (low, high) in enumerate(_disjoint_ranges()):
        chosen = (areas >= low) & (areas < high), (table.objects.areas >= low) & (table.objects.areas < high)
        by_size[:, size] = [np.nanmean(lost(name, *chosen)) for name in ERROR_TYPES]
    return by_category, by_size


def size_of(areas: np.ndarray) -> np.ndarray:
    """(N,) index in :data:`SIZES`. Unlike the ranges of the LVIS API, these do not overlap: 32 x 32 is medium."""
    return np.searchsorted([low for low, _ in _disjoint_ranges()][1:], areas, side="right")


def _disjoint_ranges() -> list[tuple[float, float]]:
    lows = [*AREA_RANGES[1:, 0].tolist(), np.inf]
    return list(zip(lows, lows[1:]))
