"""
Lossless encoding of coordinates as bytes. Value and type of each number are preserved.

LVIS writes coordinates with two decimals. Those below 655.36 are stored as n hundredths in two bytes instead of the
eight of a float64. This is exact: n / 100, rounded once by IEEE division, is the float64 that a parser returns for the
decimal fraction.
"""

from __future__ import annotations

import json

import numpy as np

HUNDREDTHS, FLOATS, TEXT = range(3)
_HUNDREDTHS, _FLOATS = np.dtype("<u2"), np.dtype("<f8")


def encode(numbers: np.ndarray, whole: np.ndarray | None) -> tuple[int, bytes]:
    """
    Args:
        numbers: (n,) float64.
        whole: (n,) bool, whether each number is a Python int; None if none is.

    Returns:
        a code and the bytes, both for :func:`decode`.
    """
    if whole is not None:
        mixed = [int(number) if is_whole else number for number, is_whole in zip(numbers.tolist(), whole)]
        return TEXT, json.dumps(mixed).encode()
    if not numbers.size or (numbers.min() >= 0 and numbers.max() < 656):
        hundredths = np.minimum(np.rint(numbers * 100), 65535).astype(_HUNDREDTHS)
        # As bits, because 0.0 == -0.0.
        if np.array_equal((hundredths / 100).view(np.int64), numbers.view(np.int64)):
            return HUNDREDTHS, hundredths.tobytes()
    return FLOATS, numbers.astype(_FLOATS).tobytes()


def decode(code: int, data) -> list:
    """
    Args:
        code, data: as returned by :func:`encode`; any buffer holds the bytes.

    Returns:
        the numbers, ints and floats.
    """
    return json.loads(bytes(data)) if code == TEXT else decode_array(code, data).tolist()


def decode_array(code: int, data) -> np.ndarray:
    """(n,) float64: as :func:`decode`, without the types of the numbers."""
    if code == HUNDREDTHS:
        return np.frombuffer(data, _HUNDREDTHS) / 100
    if code == FLOATS:
        return np.frombuffer(data, _FLOATS)
    return np.array(json.loads(bytes(data)), np.float64)
