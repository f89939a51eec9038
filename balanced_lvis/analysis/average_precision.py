"""
Average precision from a table of matches: by the LVIS API, AP-fixed and AP-pool.

AP-fixed and AP-pool: Dave et al., "Evaluating Large-Vocabulary Object Detectors: The Devil is in the Details", 2021.

Shape shorthand: N detections, T IoU thresholds, R recall thresholds, K categories, A area ranges.
"""

from __future__ import annotations

import copy
import functools
import math

import numpy as np

from ..data.frequency import LETTERS
from ..evaluation.backends import Summary
from ..evaluation.lvis_api import summarise
from .matching import ALL_AREAS, AREA_RANGES, FALSE, OFFICIAL, THRESHOLDS, TRUE, MatchTable

RECALLS: np.ndarray = OFFICIAL.rec_thrs
POOLS = ("all", *LETTERS)
# Rows times detections of which curves are computed at once, to limit memory.
BLOCK = 1 << 21


def curve(true: np.ndarray, false: np.ndarray, num_objects: int) -> tuple[np.ndarray, np.ndarray]:
    """
    Interpolated precision as in the LVIS API: at each recall, the highest precision at this or a higher recall.

    Args:
        true, false: (..., N) bool, whether each detection, by falling score, is a true or a false positive. Neither if
            it is ignored.
        num_objects: number of objects, above 0.

    Returns:
        (..., R) precision at each of 101 recalls, and (...) the final recall.
    """
    shape, number = true.shape[:-1], true.shape[-1]
    true, false = (flags.reshape(math.prod(shape), number) for flags in (true, false))
    precision, recall = np.zeros((len(true), len(RECALLS))), np.zeros(len(true))
    block = max(1, BLOCK // max(number, 1))
    for begin in range(0, len(true) if number else 0, block):
        part = slice(begin, begin + block)
        precision[part], recall[part] = _curves(true[part], false[part], num_objects)
    return precision.reshape(*shape, len(RECALLS)), recall.reshape(shape)


def _curves(true: np.ndarray, false: np.ndarray, num_objects: int) -> tuple[np.ndarray, np.ndarray]:
    """:func:`curve` of (V, N) detections, N > 0."""
    number = true.shape[1]
    true_sum, false_sum = (np.cumsum(flags, axis=1, dtype=np.int32) for flags in (true, false))
    values = true_sum / (false_sum + true_sum + np.spacing(1))
    values = np.maximum.accumulate(values[:, ::-1], axis=1)[:, ::-1]
    # The first detection with enough true positives, found in all rows at once: later rows have higher numbers.
    row = np.arange(len(true))[:, None]
    numbered = (true_sum + row * (num_objects + 1)).ravel()
    place = np.searchsorted(numbered, needed(num_objects) + row * (num_objects + 1)) - row * number
    precision = np.append(values, np.zeros((len(true), 1)), axis=1)[row, np.minimum(place, number)]
    return precision, true_sum[:, -1] / num_objects


@functools.lru_cache(4096)
def needed(num_objects: int) -> np.ndarray:
    """(R,) number of true positives that reach each recall."""
    return np.searchsorted(np.arange(num_objects + 1) / num_objects, RECALLS)


@functools.lru_cache(2048)
def recalls_reached(number: int) -> np.ndarray:
    """(number + 1,) how many of the 101 recall thresholds 0, 1, ... ``number`` of ``number`` objects reach."""
    return np.searchsorted(RECALLS, np.arange(number + 1) / max(number, 1), side="right").astype(np.uint8)


def precision_and_recall(table: MatchTable) -> tuple[np.ndarray, np.ndarray]:
    """
    Returns:
        (T, R, K, A) precision and (T, K, A) recall, as in the LVIS API: -1 without objects.
    """
    shape = (len(THRESHOLDS), len(RECALLS), table.num_categories, len(AREA_RANGES))
    precision, recall = np.full(shape, -1.0), np.full((shape[0], *shape[2:]), -1.0)
    for area, outside in enumerate(table.objects.outside):
        counts = np.bincount(table.objects.categories[~outside], minlength=shape[2])
        for category in np.flatnonzero(counts):
            status = table.status[:, area, table.bounds[category] : table.bounds[category + 1]]
            found = curve(status == TRUE, status == FALSE, int(counts[category]))
            precision[:, :, category, area], recall[:, category, area] = found
    return precision, recall


def lvis_metrics(table: MatchTable, precision: np.ndarray, recall: np.ndarray) -> dict[str, float]:
    """
    Args:
        precision, recall: from :func:`precision_and_recall`.

    Returns:
        the 13 metrics of the LVIS API in percent; NaN without ground truth.
    """
    metrics, _ = summarise(Summary(table.truth, copy.copy(OFFICIAL), precision, recall))
    return metrics


def groups_of(table: MatchTable) -> np.ndarray:
    """(K,) "r", "c" or "f" of each category."""
    categories = table.truth.lvis.cats
    return np.array([categories[index]["frequency"] for index in table.truth.category_ids.tolist()], "<U1")


def in_group(groups: np.ndarray, group: str) -> np.ndarray:
    """(K,) bool: whether a category is in a group, one of :data:`POOLS`."""
    return np.ones(len(groups), bool) if group == "all" else groups == group


def pooled_ap(table: MatchTable) -> dict[str, float]:
    """
    AP-pool: detections are matched by category as usual, and ranked together.

    Args:
        table: the 10,000 best detections of each category.

    Returns:
        AP in percent of all categories together, and of each group; NaN without objects. AP is the mean over IoU
        thresholds, for all areas.
    """
    groups = groups_of(table)
    order = np.lexsort((table.categories, table.images, -table.scores))  # of equal scores as in the authors' code
    counts = table.objects.per_category(table.num_categories)
    result = {}
    for pool in POOLS:
        chosen = in_group(groups, pool)
        own = order[chosen[table.categories[order]]]
        number = int(counts[chosen].sum())
        result[pool] = 100 * _mean_of_thresholds(table, own, number) if number else np.nan
    return result


def _mean_of_thresholds(table: MatchTable, own: np.ndarray, number: int) -> float:
    """Mean precision of detections that are ranked together. One threshold at a time, to limit memory."""
    means = []
    for at_threshold in table.status[:, ALL_AREAS]:
        status = at_threshold[own]
        means.append(curve(status == TRUE, status == FALSE, number)[0].mean())
    return float(np.mean(means))
