"""
Bootstrap over images of AP, APr, APc and APf, from one matching.

A resample draws as many images as the dataset has, with replacement. An image that is drawn w times counts w times: its
detections and objects have weight w in the sums of which precision and recall are made. This is exactly the AP of a
dataset in which each image occurs as often as it is drawn. As in the LVIS API, a category without objects in a resample
is left out of its means.

Shape shorthand: S resamples, I images, K categories, T IoU thresholds; of one category: n detections, J true positives.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from .average_precision import POOLS, RECALLS, groups_of, in_group, recalls_reached
from .matching import ALL_AREAS, IGNORED, TRUE, MatchTable
from .model import Interval

SAMPLES = 1000
LEVEL = 0.95
# Possible values of AP, and of a difference of two.
PERCENT, DIFFERENCE = (0.0, 100.0), (-100.0, 100.0)
# Detections of a category times resamples that are processed at once, to limit memory.
BLOCK = 1 << 21
# Two threads are faster than one because NumPy releases the GIL.
THREADS = 2


def image_weights(num_images: int, samples: int, seed: int) -> np.ndarray:
    """
    Args:
        num_images: number of images I.
        samples: number of resamples S, of I images each, drawn with replacement.
        seed: of the generator.

    Returns:
        (S, I) int16: how often each image is drawn in each resample.
    """
    rng = np.random.default_rng(seed)
    weights = np.empty((samples, num_images), np.int16)
    for row in weights:
        row[:] = np.bincount(rng.integers(num_images, size=num_images), minlength=num_images)
    return weights


def resampled_ap(table: MatchTable, weights: np.ndarray) -> np.ndarray:
    """
    Args:
        table: M detections.
        weights: (S, I) from :func:`image_weights`.

    Returns:
        (S, 4) AP, APr, APc and APf in percent of each resample; NaN without objects.
    """
    groups = groups_of(table)
    members = np.stack([in_group(groups, pool) for pool in POOLS], axis=1).astype(np.float64)
    by_image = np.ascontiguousarray(weights.T)
    values = np.full((len(weights), table.num_categories), np.nan)

    def resample(category: int, objects: np.ndarray) -> None:
        drawn = by_image[table.objects.images[objects]].sum(axis=0)
        values[:, category] = np.where(drawn > 0, _category_ap(table, category, by_image, drawn), np.nan)

    with ThreadPoolExecutor(THREADS) as pool:
        for _ in pool.map(lambda one: resample(*one), _objects_by_category(table)):
            pass
    known = ~np.isnan(values)
    numbers = known @ members
    with np.errstate(invalid="ignore"):
        return 100 * (np.where(known, values, 0) @ members) / np.where(numbers > 0, numbers, np.nan)


def _objects_by_category(table: MatchTable):
    inside = np.flatnonzero(~table.objects.outside[ALL_AREAS])
    inside = inside[np.argsort(table.objects.categories[inside], kind="stable")]
    categories, first = np.unique(table.objects.categories[inside], return_index=True)
    yield from zip(categories.tolist(), np.split(inside, first[1:]))


def _category_ap(table: MatchTable, category: int, by_image: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """
    AP of a category in each resample, in 0..1.

    Args:
        by_image: (I, S) weights.
        drawn: (S,) number of objects in each resample.
    """
    own = slice(*table.bounds[category : category + 2])
    status, images = table.status[:, ALL_AREAS, own], table.images[own]
    relevant = np.flatnonzero((status != IGNORED).any(axis=0))
    status, images = status[:, relevant], images[relevant]
    total = np.zeros(by_image.shape[1])
    if not len(images):
        return total
    block = max(1, BLOCK // len(images))
    for begin in range(0, len(total), block):
        part = slice(begin, begin + block)
        total[part] = _ap_of_block(status, by_image[images, part], _Recalls(drawn[part]))
    return total


def _ap_of_block(status: np.ndarray, weights: np.ndarray, recalls: _Recalls) -> np.ndarray:
    """
    Args:
        status: (T, n) of the detections of a category.
        weights: (n, S) of their images, in some resamples.
        recalls: of the number of objects in these.

    Returns:
        (S,) AP in 0..1.
    """
    total = np.zeros(weights.shape[1])
    ranked = np.cumsum(weights, axis=0, dtype=np.int32)
    found: dict[bytes, np.ndarray] = {}  # few detections often have the same status at several thresholds
    for at_threshold in status:
        key = at_threshold.tobytes()
        if key not in found:
            found[key] = _ap_at_threshold(at_threshold, weights, ranked, recalls)
        total += found[key]
    return total / len(status)


def _ap_at_threshold(status: np.ndarray, weights: np.ndarray, ranked: np.ndarray, recalls: _Recalls) -> np.ndarray:
    """
    Args:
        status: (n,) of the detections of a category.
        weights: (n, S) of their images.
        ranked: (n, S) their cumulative sums.
        recalls: of the number of objects.

    Returns:
        (S,) AP in 0..1.
    """
    true, ignored = np.flatnonzero(status == TRUE), np.flatnonzero(status == IGNORED)
    if not len(true):
        return np.zeros(weights.shape[1])
    counts = ranked[true]
    if len(ignored):
        before = np.cumsum(weights[ignored], axis=0, dtype=np.int32)
        before = np.append(np.zeros((1, before.shape[1]), np.int32), before, axis=0)
        counts = counts - before[np.searchsorted(ignored, true)]
    return _mean_precision(np.cumsum(weights[true], axis=0, dtype=np.int32), counts, recalls)


def _mean_precision(true: np.ndarray, counts: np.ndarray, recalls: _Recalls) -> np.ndarray:
    """
    Mean over 101 recalls of the interpolated precision.

    Args:
        true: (J, S) number of true positives up to each one.
        counts: (J, S) number of true and false positives up to each.
        recalls: of the number of objects.
    """
    precision = true / (counts + np.spacing(1))
    precision = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    steps = recalls.reached(true)
    steps[1:] -= steps[:-1].copy()
    return np.einsum("js,js->s", precision, steps) / len(RECALLS)


class _Recalls:
    """
    How many of the 101 recall thresholds some true positives reach, of each number of objects.

    Args:
        drawn: (S,) number of objects in each resample.
    """

    def __init__(self, drawn: np.ndarray):
        numbers, which = np.unique(drawn.astype(np.int64), return_inverse=True)
        self._table = np.concatenate([recalls_reached(number) for number in numbers.tolist()])
        self._begins = (np.cumsum(numbers + 1) - numbers - 1)[which]

    def reached(self, true: np.ndarray) -> np.ndarray:
        """(J, S) of (J, S) numbers of true positives."""
        return self._table[true + self._begins]


def centred_interval(
    value: float, resamples: np.ndarray, level: float = LEVEL, limits: tuple[float, float] = PERCENT
) -> Interval:
    """
    Centred percentile interval: quantiles of the resamples, shifted so that their mean is the value.

    It estimates the expected value on another sample of equally many images. The mean of the resamples is above the
    value mainly because a category counts only in resamples that contain its images, where these have a mean weight
    above 1: 1 / (1 - 1/e) = 1.58 for a category of one image. This shift is a property of resampling. It is removed,
    and reported as the bias.

    Args:
        value: value on the dataset, in percent.
        resamples: (S,) values of the resamples; NaN are left out.
        level: share of the resamples inside the interval.
        limits: lowest and highest value that is possible; the interval is clipped to them.
    """
    known = resamples[~np.isnan(resamples)]
    if len(known) < 2 or np.isnan(value):
        return Interval(value, *(np.nan,) * 4)
    bias = float(known.mean()) - value
    low, high = np.clip(np.quantile(known, [(1 - level) / 2, (1 + level) / 2]) - bias, *limits)
    return Interval(value, float(low), float(high), float(known.std(ddof=1)), bias)


def paired_difference(
    first: tuple[float, np.ndarray], second: tuple[float, np.ndarray], level: float = LEVEL
) -> Interval:
    """
    Difference of two results on the same images, with its interval.

    Args:
        first, second: value, and (S,) values of the same resamples of images, in the same order.
        level: share of the resamples inside the interval.

    Returns:
        the interval of the first minus the second.
    """
    return centred_interval(first[0] - second[0], first[1] - second[1], level, DIFFERENCE)
