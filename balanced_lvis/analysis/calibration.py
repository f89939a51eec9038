"""
Calibration of scores, and thresholds.

* Reliability and ECE: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017; for detections Küppers et
  al., "Multivariate Confidence Calibration for Object Detection", CVPRW 2020, with the score as the only dimension.
* LaECE: Oksuz et al., "Towards Building Self-Aware Object Detectors", CVPR 2023, equation 6, of detections above
  LRP-optimal thresholds, as there and in Kuzucu et al., "On Calibration of Object Detectors: Pitfalls, Evaluation and
  Baselines", ECCV 2024.
* LRP and its optimal threshold: Oksuz et al., "One Metric to Measure them All: Localisation Recall Precision (LRP) for
  Evaluating Visual Detection Tasks", TPAMI 2021.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .error_types import AT_50, counted
from .matching import ALL_AREAS, IGNORED, TRUE, MatchTable, match_pairs, statuses

ECE_BINS, LAECE_BINS = 10, 25
LAECE_IOU, LRP_IOU = 0.1, 0.5


def bin_of(scores: np.ndarray, number: int) -> np.ndarray:
    """(N,) index of the bin (i / number, (i + 1) / number] of each score in 0..1; the first includes 0."""
    edges = np.linspace(0, 1, number + 1)[1:-1]
    return np.searchsorted(edges, scores, side="left")


@dataclass(frozen=True)
class Bins:
    """
    Sums over the detections of each bin of scores.

    Attributes:
        counts: (..., B) detections that are not ignored.
        true: (..., B) true positives.
        scores: (..., B) sum of the scores.
        ious: (..., B) sum of the IoUs of true positives.
    """

    counts: np.ndarray
    true: np.ndarray
    scores: np.ndarray
    ious: np.ndarray

    def precision(self) -> np.ndarray:
        """(..., B) share of true positives, NaN without detections."""
        return _ratio(self.true, self.counts)

    def mean_scores(self) -> np.ndarray:
        """(..., B) mean score, NaN without detections."""
        return _ratio(self.scores, self.counts)


@dataclass(frozen=True)
class Outcomes:
    """
    What M detections count as at one IoU threshold, for all areas.

    Attributes:
        true: (M,) bool, true positives.
        kept: (M,) bool, detections that are not ignored.
        ious: (M,) IoUs of true positives; others are not read.
    """

    true: np.ndarray
    kept: np.ndarray
    ious: np.ndarray


def outcomes(table: MatchTable) -> Outcomes:
    """Outcomes at an IoU threshold of 0.5."""
    return Outcomes(*counted(table), table.matched_ious(AT_50))


def outcomes_for_laece(table: MatchTable) -> Outcomes:
    """Outcomes at an IoU threshold of 0.1."""
    matched = match_pairs(table, np.array([LAECE_IOU]), table.objects.outside[: ALL_AREAS + 1])
    status, pairs = statuses(table, matched)[0, ALL_AREAS], matched[0, ALL_AREAS]
    return Outcomes(status == TRUE, status != IGNORED, np.append(table.pairs.ious, 0)[pairs])


def _ratio(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return np.divide(values, counts, out=np.full(np.shape(counts), np.nan), where=counts > 0)


def bins_by_category(table: MatchTable, found: Outcomes, chosen: np.ndarray, number: int) -> Bins:
    """
    Args:
        table: M detections.
        found: their outcomes.
        chosen: (M,) bool, detections of which the sums are made.
        number: B.

    Returns:
        (K, B) sums.
    """
    true, kept = found.true & chosen, found.kept & chosen
    place = table.categories * number + bin_of(table.scores, number)

    def summed(own: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        weights = None if weights is None else weights[own]
        return np.bincount(place[own], weights, table.num_categories * number).reshape(-1, number)

    return Bins(summed(kept), summed(true), summed(kept, table.scores), summed(true, found.ious))


def expected_calibration_error(bins: Bins) -> float:
    """
    ECE in percent: mean over detections of |precision - mean score| of their bin. NaN without detections.

    Args:
        bins: (B,) sums.
    """
    total = bins.counts.sum()
    gaps = np.abs(bins.true - bins.scores)  # counts times |precision - mean score|
    return float(100 * gaps.sum() / total) if total else np.nan


def localisation_aware_errors(bins: Bins) -> np.ndarray:
    """
    LaECE of each category in percent: as ECE, with precision x mean IoU of true positives in place of precision.

    Args:
        bins: (K, B) sums.

    Returns:
        (K,), NaN without detections.
    """
    gaps = np.abs(bins.ious - bins.scores)  # precision x mean IoU x counts is the sum of IoUs
    return 100 * _ratio(gaps.sum(axis=1), bins.counts.sum(axis=1))


def reliability_bins(table: MatchTable) -> Bins:
    """(K, 10) sums at an IoU threshold of 0.5."""
    return bins_by_category(table, outcomes(table), np.ones(len(table), bool), ECE_BINS)


@dataclass(frozen=True)
class LaECE:
    """
    LaECE of each category, in percent.

    Attributes:
        error: (K,) of the detections with at least the LRP-optimal score, as in the papers; NaN without true positives,
            for which there is no such score.
        all_detections: (K,) of all detections that are not ignored; NaN without any.
        thresholds: (K,) LRP-optimal scores at an IoU threshold of 0.1; NaN without true positives.
    """

    error: np.ndarray
    all_detections: np.ndarray
    thresholds: np.ndarray


def laece(table: MatchTable, num_objects: np.ndarray) -> LaECE:
    """
    Args:
        table: M detections.
        num_objects: (K,) number of objects of each category.
    """
    found = outcomes_for_laece(table)
    thresholds = optimal_lrp(rankings(table, found), num_objects, LAECE_IOU).thresholds
    above = table.scores >= thresholds[table.categories]  # False for NaN
    error, of_all = (
        localisation_aware_errors(bins_by_category(table, found, chosen, LAECE_BINS))
        for chosen in (above, np.ones(len(table), bool))
    )
    return LaECE(error, of_all, thresholds)


@dataclass(frozen=True)
class OptimalLRP:
    """
    LRP of each category at the score threshold that minimises it, in percent; NaN where not defined.

    Attributes:
        error: (K,) oLRP: 100 if nothing is found; NaN without objects.
        localisation, false_positive, false_negative: (K,) its components: mean 1 - IoU of true positives, 1 -
            precision, and 1 - recall.
        thresholds: (K,) score thresholds in 0..1. Detections with at least this score are kept.
    """

    error: np.ndarray
    localisation: np.ndarray
    false_positive: np.ndarray
    false_negative: np.ndarray
    thresholds: np.ndarray


@dataclass(frozen=True)
class Ranking:
    """
    Counts of a category at each distinct score, by falling score, at one IoU threshold.

    Attributes:
        scores: (n,) distinct scores of detections that are not ignored.
        true, false: (n,) true and false positives with at least this score.
        ious: (n,) sum of the IoUs of these true positives.
    """

    scores: np.ndarray
    true: np.ndarray
    false: np.ndarray
    ious: np.ndarray


def rankings(table: MatchTable, found: Outcomes | None = None) -> list[Ranking]:
    """
    The :class:`Ranking` of each category.

    Args:
        table: M detections.
        found: their outcomes; None for those at an IoU threshold of 0.5.
    """
    found = found or outcomes(table)
    true = found.true
    result = []
    for begin, end in zip(table.bounds, table.bounds[1:]):
        own = np.arange(begin, end)[found.kept[begin:end]]
        scores = table.scores[own]
        last = np.flatnonzero(np.append(np.diff(scores) != 0, True)) if len(own) else own  # only whole ties
        sums = np.cumsum(true[own])
        ious = np.cumsum(np.where(true[own], found.ious[own], 0))
        result.append(Ranking(scores[last], sums[last], last + 1 - sums[last], ious[last]))
    return result


def optimal_lrp(ranked: list[Ranking], num_objects: np.ndarray, iou: float = LRP_IOU) -> OptimalLRP:
    """
    LRP = (sum of (1 - IoU) / (1 - t) over true positives + false positives + missed objects) / (all three counts).

    Args:
        ranked: of each category.
        num_objects: (K,) number of objects of each category.
        iou: t, the IoU threshold of ``ranked``.
    """
    columns = np.full((5, len(ranked)), np.nan)
    for category, (own, number) in enumerate(zip(ranked, num_objects.tolist())):
        if not number:
            continue
        if not own.true.any():
            columns[[0, 3], category] = 100
            continue
        errors = own.true - own.ious
        missed = number - own.true
        lrp = (errors / (1 - iou) + own.false + missed) / (own.true + own.false + missed)
        best = int(np.argmin(lrp))
        columns[:4, category] = 100 * np.array(
            [
                lrp[best], _ratio(errors, own.true)[best], own.false[best] / (own.true[best] + own.false[best]),
                missed[best] / number,
            ]
        )  # fmt: skip
        columns[4, category] = own.scores[best]
    return OptimalLRP(*columns)
