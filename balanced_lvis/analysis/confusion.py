"""
Confusion of categories: detections of one category on objects of another.

A detection counts only if its category is known to be absent from the image, or annotated exhaustively in it. So a pair
is confused at most as often as the dataset can tell, and the number of objects for which it can is given with it.
"""

from __future__ import annotations

import numpy as np

from .average_precision import RECALLS, recalls_reached
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
        "count" (classification errors), "above_threshold" (those with a score of at least the threshold of the detected
        category), "opportunities" (objects of the annotated category in images where the detected one is judged and
        annotated exhaustively), "rate" ("count" in percent of them), and "ap_lost" (AP50 of the dataset, in percent,
        that is gained by correcting these errors).
    """
    wrong = np.flatnonzero(errors.types == ERROR_TYPES.index(CLASSIFICATION))
    detected, annotated = table.categories[wrong], table.objects.categories[errors.objects[wrong]]
    pairs, which = np.unique(detected * table.num_categories + annotated, return_inverse=True)
    first, second = np.divmod(pairs, table.num_categories)
    counts = np.bincount(which, minlength=len(pairs))
    above = np.bincount(which[table.scores[wrong] >= thresholds[detected]], minlength=len(pairs))
    costs = _costs(table, errors, wrong, which, first, second)
    order = np.lexsort((pairs, -counts, -costs))
    opportunities = _opportunities(table, first, second)
    columns = {
        "detected": first, "annotated": second, "count": counts, "above_threshold": above,
        "opportunities": opportunities, "rate": 100 * counts / opportunities, "ap_lost": costs,
    }  # fmt: skip
    return {name: column[order] for name, column in columns.items()}


def _costs(table: MatchTable, errors: Errors, wrong, which, first, second) -> np.ndarray:
    """(p,) what correcting the errors of each pair adds to AP50: in the detected and in the annotated category."""
    number = table.objects.per_category(table.num_categories)
    ranked = _RankedCategories(table, number)
    gain = np.zeros(len(first))
    bounds = np.cumsum(np.bincount(which, minlength=len(first)))[:-1]
    by_pair = np.split(wrong[np.argsort(which, kind="stable")], bounds)
    for pair, (own, detected, annotated) in enumerate(zip(by_pair, first.tolist(), second.tolist())):
        gain[pair] = ranked.gain_without(detected, own)
        fixed = own[errors.fixes[own]]
        if len(fixed):
            gain[pair] += ranked.gain_with(annotated, fixed)
    return 100 * gain / max(int(np.count_nonzero(number)), 1)


class _RankedCategories:
    """
    AP50 of categories after a few corrections.

    Precision is needed at true positives only, of which there are far fewer than detections.

    Args:
        table: matches.
        number: (K,) number of objects of each category.
    """

    def __init__(self, table: MatchTable, number: np.ndarray):
        self._table = table
        self._number = number
        self._true, kept = counted(table)
        kept_before = np.cumsum(kept)
        # (M,) rank of each detection that is not ignored among those of its category, from 1.
        self._ranks = kept_before - np.append(0, kept_before)[table.bounds][table.categories]
        self._kept = kept
        self._known: dict[int, tuple[np.ndarray, np.ndarray, float]] = {}

    def gain_without(self, category: int, removed: np.ndarray) -> float:
        """What is gained without some false positives, by ascending index."""
        ranks, _, before = self._of(category)
        return self._ap(category, ranks - np.searchsorted(self._ranks[removed], ranks)) - before

    def gain_with(self, category: int, added: np.ndarray) -> float:
        """What is gained with additional true positives, by falling score. They follow detections of equal score."""
        ranks, scores, before = self._of(category)
        places = np.searchsorted(-scores, -self._table.scores[added], side="right")
        moved = ranks + np.searchsorted(places, ranks - 1, side="right")
        new = places + np.arange(1, len(places) + 1)
        return self._ap(category, np.sort(np.concatenate([moved, new]))) - before

    def _of(self, category: int) -> tuple[np.ndarray, np.ndarray, float]:
        """Ranks of the true positives, scores of the detections that are not ignored, and AP50."""
        if category not in self._known:
            own = slice(*self._table.bounds[category : category + 2])
            ranks = self._ranks[own][self._true[own]]
            self._known[category] = ranks, self._table.scores[own][self._kept[own]], self._ap(category, ranks)
        return self._known[category]

    def _ap(self, category: int, ranks: np.ndarray) -> float:
        """AP50 in 0..1 of a category whose true positives have these ascending ranks."""
        number = int(self._number[category])
        if not number or not len(ranks):
            return 0.0
        true = np.arange(1, len(ranks) + 1)
        precision = np.maximum.accumulate((true / (ranks + np.spacing(1)))[::-1])[::-1]
        steps = np.diff(recalls_reached(number)[true].astype(np.int64), prepend=0)
        return float(precision @ steps) / len(RECALLS)


def _opportunities(table: MatchTable, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(p,) objects of the second category in images where false positives of the first count."""
    counts = table.truth.judged() & ~table.truth.not_exhaustive()
    order = np.argsort(table.objects.categories, kind="stable")
    bounds = np.searchsorted(table.objects.categories[order], np.arange(table.num_categories + 1))
    result = np.zeros(len(first), np.int64)
    by_second = np.argsort(second, kind="stable")
    starts = np.searchsorted(second[by_second], np.arange(table.num_categories + 1))
    for category in np.unique(second).tolist():
        images = table.objects.images[order[bounds[category] : bounds[category + 1]]]
        pairs = by_second[starts[category] : starts[category + 1]]
        result[pairs] = counts[images].sum(axis=0)[first[pairs]]
    return result
