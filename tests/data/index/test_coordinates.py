"""Coordinates are stored without loss."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from balanced_lvis.data.index.coordinates import FLOATS, HUNDREDTHS, TEXT, decode, encode
from tests.data.index.made import numbers


@settings(deadline=None)
@given(st.lists(numbers, max_size=12))
def test_numbers_come_back_with_value_and_type(values):
    whole = np.array([type(value) is int for value in values], bool)
    code, data = encode(np.array(values, np.float64), whole if whole.any() else None)
    assert repr(decode(code, data)) == repr(values)


def test_coordinates_with_two_decimals_take_two_bytes():
    every = np.arange(65536) / 100
    assert [float(f"{n // 100}.{n % 100:02d}") for n in range(65536)] == every.tolist()
    code, data = encode(every, None)
    assert (code, len(data)) == (HUNDREDTHS, 2 * 65536)
    for values in ([655.36], [-0.01], [0.005], [-0.0], [float("nan")], [float("inf")]):
        assert encode(np.array(values), None)[0] == FLOATS
    assert encode(np.array([1.0]), np.array([True])) == (TEXT, b"[1]")
