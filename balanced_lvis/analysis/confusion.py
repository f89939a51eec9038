"""
Confusion of categories: detections of one category on objects of another.

A detection counts only if its category is known to be absent from the image, or annotated exhaustively in it. So a pair
is confused at most as often as the dataset can tell, and the number of objects for which it can is given with it.
"""

from __future__ import annotations

import numpy as np

from .average_precision import curve
from .error_types import CLASSIFICATION, ERROR_TYPES, Errors, counted
from .matching import MatchTable


def confused_pairs(table: MatchTable, errors: Errors, thresholds: np.ndarray) -> dict[str, np.ndarray]:
    """
    All pairs of categories with a classification error.

    Args:
        table, errors: matches, and their errors.
        thresholds: (K,) score thresholds; NaN for none.

    Returns:
        columns with one entry per pair, by falling cost: "detected" and "annotated" (ranks of the categories),
        "count" (classification errors), "above_threshold" (those with a score of at least the threshold of the
        detected category), "opportunities" (objects of the annotated category in images where the detected one is
        judged and annotated exhaustively), and "ap_lost" (AP50 of the dataset, in percent, that is gained by correcting
        these errors).
    """
    wrong = np.flatnonzero(errors.types == ERROR_TYPES.index(CLASSIFICATION))
    detected, annotated = table.categories[wrong], table.objects.categories[errors.objects[wrong]]
    pairs, which = np.unique(detected * table.num_categories + annotated, return_inverse=True)
    first, second = np.divmod(pairs, table.num_categories)
    counts = np.bincount(which, minlength=len(pairs))
    above = np.bincount(which[table.scores[wrong] >= thresholds[detected]], minlength=len(pairs))
    costs = _costs(table, errors, wrong, which, first, second)
    order = np.lexsort((pairs, -counts, -costs))
    columns = {
        "detected": first, "annotated": second, "count": counts, "above_threshold": above,
        "opportunities": _opportunities(table, first, second), "ap_lost": costs,
    }  # fmt: skip
    return {name: column[order] for name, column in columns.items()}


def _costs(table: MatchTable, errors: Errors, wrong, which, first, second) -> np.ndarray:
    """(p,) what correcting the errors of each pair adds to AP50: in the detected and in the annotated category."""
    true, kept = counted(table)
    number = table.objects.per_category(table.num_categories)
    before = {}
    gain = np.zeros(len(first))
    bounds = np.cumsum(np.bincount(which, minlength=len(first)))[:-1]
    by_pair = np.split(wrong[np.argsort(which, kind="stable")], bounds)
    for pair, (own, a, b) in enumerate(zip(by_pair, first.tolist(), second.tolist())):
        for category in (a, b):
            if category not in before:
                before[category] = _ap50(table, true, kept, category, number)
        fixed = own[errors.fixes[own]]
        gain[pair] = _without(table, true, kept, a, number, own) - before[a]
        if len(fixed):
            gain[pair] += _with(table, true, kept, b, number, fixed) - before[b]
    return 100 * gain / max(int(np.count_nonzero(number)), 1)


def _ap50(table, true, kept, category, number) -> float:
    own = slice(*table.bounds[category : category + 2])
    return _ap(true[own][kept[own]], number[category])


def _without(table, true, kept, category, number, removed) -> float:
    """AP50 of a category without some of its false positives."""
    begin, end = table.bounds[category : category + 2]
    remaining = kept[begin:end].copy()
    remaining[removed - begin] = False
    return _ap(true[begin:end][remaining], number[category])


def _with(table, true, kept, category, number, added) -> float:
    """AP50 of a category with additional true positives."""
    own = slice(*table.bounds[category : category + 2])
    mine, scores = true[own][kept[own]], table.scores[own][kept[own]]
    places = np.searchsorted(-scores, -table.scores[added], side="right")  # after equal scores
    return _ap(np.insert(mine, places, True), number[category])


def _ap(true: np.ndarray, number: int) -> float:
    return float(curve(true, ~true, int(number))[0].mean()) if number else 0.0


def _opportunities(table: MatchTable, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(p,) objects of the second category in images where false positives of the first count."""
    counts = table.truth.judged() & ~table.truth.not_exhaustive()
    order = np.argsort(table.objects.categories, kind="stable")
    bounds = np.searchsorted(table.objects.categories[order], np.arange(table.num_categories + 1))
    images = np.split(table.objects.images[order], bounds[1:-1])
    return np.array([np.count_nonzero(counts[images[b], a]) for a, b in zip(first.tolist(), second.tolist())], np.int64)
