"""Ranges of integers, as NumPy arrays."""

from __future__ import annotations

import numpy as np


def concatenated_ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """
    Args:
        starts: (n,) first integer of each range.
        lengths: (n,) number of integers of each.

    Returns:
        int64 integers of all ranges, one after the other.
    """
    before = np.cumsum(lengths, dtype=np.int64) - lengths
    return np.arange(lengths.sum(), dtype=np.int64) + np.repeat(starts - before, lengths)
