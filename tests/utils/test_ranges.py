"""Ranges of integers."""

import numpy as np
import pytest

from balanced_lvis.utils.ranges import concatenated_ranges


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint8])
def test_ranges_follow_each_other(dtype):
    starts, lengths = np.array([5, 0, 200]), np.array([3, 0, 2], dtype)
    assert concatenated_ranges(starts, lengths).tolist() == [5, 6, 7, 200, 201]
    assert concatenated_ranges(starts[:0], lengths[:0]).tolist() == []
