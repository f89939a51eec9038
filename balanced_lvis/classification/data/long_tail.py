"""
Long-tailed subsets of balanced datasets: the rule of LDAM-DRW (Cao et al., NeurIPS 2019), which most tables follow.

Class i of K keeps n_i = int(n_max (1 / IF)^(i / (K - 1))) images, where IF is the imbalance factor.
"""

from __future__ import annotations

import numpy as np

from ...utils.errors import InputError
from .image_set import ImageSet


def long_tailed_counts(max_count: float, num_classes: int, imbalance: float) -> np.ndarray:
    """
    Args:
        max_count: n_max, the number of images of the first class; rounded down if it is not a whole number.
        num_classes: K.
        imbalance: IF, the ratio of the largest to the smallest count; 1 keeps all classes equal.

    Returns:
        (K,) int64, n_i; not increasing.

    Raises:
        InputError: if an argument is out of range.
    """
    if not 1 <= imbalance < np.inf:
        raise InputError(
            f"DATASET.LONG_TAIL.IMBALANCE is {imbalance}; it must be 1 (balanced) or more, such as 100, or 0 for all "
            "images."
        )
    if max_count < 1 or num_classes < 1:
        raise InputError(f"max_count is {max_count} and num_classes {num_classes}; both must be at least 1.")
    # In Python's floats, as in the published rule: another order of operations can differ by one image.
    shares = [(1 / imbalance) ** (i / max(num_classes - 1.0, 1.0)) for i in range(num_classes)]
    return np.array([int(max_count * share) for share in shares], np.int64)


def long_tailed_subset(images: ImageSet, imbalance: float, max_count: int = 0, seed: int = 0) -> ImageSet:
    """
    Choose images, index by index as the published rule does: NumPy's generator is seeded once, then each class's
    indices are shuffled in turn and the first n_i are kept.

    Args:
        images: training set.
        imbalance: IF.
        max_count: n_max; 0 for N / K, as in the published rule.
        seed: seed of the choice; 0 in the published rule.

    Returns:
        the subset, class by class.

    Raises:
        InputError: if a class has fewer images than it must keep.
    """
    counts = long_tailed_counts(max_count or len(images) / images.num_classes, images.num_classes, imbalance)
    available = images.counts()
    if (short := np.flatnonzero(available < counts)).size:
        first = short[0]
        raise InputError(
            f"Class {images.class_names[first]!r} has {available[first]} training images, but the long-tailed subset "
            f"needs {counts[first]}; set DATASET.LONG_TAIL.MAX_COUNT to at most {available[first]}, or "
            "DATASET.LONG_TAIL.IMBALANCE to 0 to use all images."
        )
    generator = np.random.RandomState(seed)  # the legacy generator, as np.random.seed
    chosen = []
    for label, count in enumerate(counts):
        indices = np.flatnonzero(images.labels == label)
        generator.shuffle(indices)
        chosen.append(indices[:count])
    return images.subset(np.concatenate(chosen))
