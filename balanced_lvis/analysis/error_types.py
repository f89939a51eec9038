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


def counted(table: MatchTable) -> tuple[np.ndarray, np.ndarray]:
    """(M,) bool: true positives, and detections that are not ignored, at an IoU threshold of 0.5."""
    status = table.status[AT_50, ALL_AREAS]
    return status == TRUE, (status == TRUE) | (status == FALSE)


def error_areas(table: MatchTable, errors: Errors) -> np.ndarray:
    """(M,) area of the object that an error is about; of the detection, if there is none."""
    return np.where(errors.objects >= 0, np.append(table.objects.areas, 0)[errors.objects], table.areas)


def ap_lost(table: MatchTable, errors: Errors) -> tuple[np.ndarray, np.ndarray]:
    """
    AP50 that each error type costs: AP50 with all its errors corrected, minus AP50.

    A classification or localisation error that finds its object becomes a true positive, of the category of the object;
    all other false positives are removed. Missed objects are removed. If a category has no other objects, its AP50 is
    then 100.

    Returns:
        (E, K) of each category, and (E, S) mean over categories when only errors of each of :data:`SIZES` are
        corrected; in percent.
    """
    number = table.objects.per_category(table.num_categories)
    ranked = _ranked_with_corrections(table, errors)
    lost = np.full((1 + len(SIZES), len(ERROR_TYPES), table.num_categories), np.nan)
    missed = _missed(table, errors)
    for category in np.flatnonzero(number).tolist():
        true, false = ranked.of_category(category)
        values = curve(true, false, int(number[category]))[0].mean(axis=1)
        lost[:, :-1, category] = (values[1:] - values[0]).reshape(len(lost), -1)
        before = true[0], false[0]
        for size, gone in enumerate(missed[:, category].tolist()):
            left = int(number[category]) - gone
            after = curve(*before, left)[0].mean() if gone and left else 1.0 if gone else values[0]
            lost[size, -1, category] = after - values[0]
    lost *= 100
    by_size = np.nanmean(lost[1:], axis=2) if number.any() else lost[1:, :, 0]
    return lost[0], by_size.T


@dataclass(frozen=True)
class _Ranked:
    """
    N detections by category and falling score.

    Detections that become true positives of another category have a second entry there.

    Attributes:
        bounds: (K+1,) the detections of category k are ``bounds[k]`` to ``bounds[k + 1]``.
        true, false: (N,) bool, true and false positives; neither for a second entry.
        moved: (N,) bool, second entries.
        types, fixes: (N,) of :class:`Errors`.
        sizes: (N,) index in :data:`SIZES`.
    """

    bounds: np.ndarray
    true: np.ndarray
    false: np.ndarray
    moved: np.ndarray
    types: np.ndarray
    fixes: np.ndarray
    sizes: np.ndarray

    def of_category(self, category: int) -> tuple[np.ndarray, np.ndarray]:
        """
        The detections of a category after V corrections.

        Returns:
            (V, n) true and false positives. The first row is without a correction; then come all sizes together and
            each size, with the types of :data:`ERROR_TYPES` but missed objects for each. All rows of the dataset at
            once would need too much memory.
        """
        own = slice(*self.bounds[category : category + 2])
        true, false, moved, types, fixes, sizes = (
            column[own] for column in (self.true, self.false, self.moved, self.types, self.fixes, self.sizes)
        )
        rows = [(true, false)]
        for of_size in (np.ones(len(true), bool), *(sizes == size for size in range(len(SIZES)))):
            for name in ERROR_TYPES[:-1]:
                corrected = (types == _index(name)) & of_size
                in_place = moved if name == CLASSIFICATION else ~moved & (name == LOCALISATION)
                rows.append((true | (corrected & fixes & in_place), false & ~corrected))
        return np.stack([row[0] for row in rows]), np.stack([row[1] for row in rows])


def _ranked_with_corrections(table: MatchTable, errors: Errors) -> _Ranked:
    true, kept = counted(table)
    own = np.flatnonzero(kept)
    moved = np.flatnonzero(errors.fixes & (errors.types == _index(CLASSIFICATION)))
    detections = np.append(own, moved)
    categories = np.append(table.categories[own], table.objects.categories[errors.objects[moved]])
    order = np.lexsort((-table.scores[detections], categories))
    detections, is_moved = detections[order], (np.arange(len(detections)) >= len(own))[order]
    is_true = true[detections]
    return _Ranked(
        np.searchsorted(categories[order], np.arange(table.num_categories + 1)),
        is_true & ~is_moved,
        ~is_true & ~is_moved,
        is_moved,
        errors.types[detections],
        errors.fixes[detections],
        size_of(error_areas(table, errors))[detections],
    )


def _missed(table: MatchTable, errors: Errors) -> np.ndarray:
    """(1 + S, K) number of missed objects, of all sizes and of each."""
    objects = table.objects
    sizes = size_of(objects.areas)
    chosen = [errors.missed, *(errors.missed & (sizes == size) for size in range(len(SIZES)))]
    return np.stack([np.bincount(objects.categories[own], minlength=table.num_categories) for own in chosen])


def size_of(areas: np.ndarray) -> np.ndarray:
    """(N,) index in :data:`SIZES`. Unlike the ranges of the LVIS API, these do not overlap: 32 x 32 is medium."""
    return np.searchsorted([low for low, _ in _disjoint_ranges()][1:], areas, side="right")


def _disjoint_ranges() -> list[tuple[float, float]]:
    lows = [*AREA_RANGES[1:, 0].tolist(), np.inf]
    return list(zip(lows, lows[1:]))
