"""Precision, recall and thresholds of each category, at an IoU threshold of 0.5."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .calibration import Ranking


@dataclass(frozen=True)
class OperatingPoints:
    """
    What each category detects above a score threshold. Rates are in percent, NaN where not defined.

    Attributes:
        thresholds: (K,) detections with at least this score are kept; NaN if there is no such threshold.
        precision, recall, f1: (K,) rates.
        true, false: (K,) number of true and false positives.
    """

    thresholds: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    true: np.ndarray
    false: np.ndarray


def at_threshold(ranked: list[Ranking], num_objects: np.ndarray, threshold: float) -> OperatingPoints:
    """
    Args:
        ranked: the ranking of each category.
        num_objects: (K,) number of objects.
        threshold: score threshold of all categories.
    """
    counts = [int(np.searchsorted(-own.scores, -threshold, side="right")) for own in ranked]
    return _points(ranked, num_objects, np.full(len(ranked), threshold), counts)


def best_f1(ranked: list[Ranking], num_objects: np.ndarray) -> OperatingPoints:
    """The threshold of highest F1 = 2 TP / (2 TP + FP + FN), of equal ones the highest; NaN without true positives."""
    thresholds, counts = np.full(len(ranked), np.nan), []
    for category, (own, number) in enumerate(zip(ranked, num_objects.tolist())):
        counts.append(0)
        if len(own.true) and own.true[-1]:
            best = int(np.argmax(2 * own.true / (own.true + own.false + number)))
            thresholds[category] = own.scores[best]
            counts[-1] = best + 1
    return _points(ranked, num_objects, thresholds, counts)


def _points(ranked: list[Ranking], num_objects: np.ndarray, thresholds: np.ndarray, counts: list[int]):
    true = np.array([own.true[n - 1] if n else 0 for own, n in zip(ranked, counts)], np.int64)
    false = np.array([own.false[n - 1] if n else 0 for own, n in zip(ranked, counts)], np.int64)
    return OperatingPoints(
        thresholds,
        _percent(true, true + false),
        _percent(true, num_objects),
        _percent(2 * true, true + false + num_objects, num_objects > 0),
        true,
        false,
    )


def _percent(part: np.ndarray, whole: np.ndarray, defined=True) -> np.ndarray:
    return 100 * np.divide(part, whole, out=np.full(len(part), np.nan), where=(whole > 0) & defined)
