"""
Lossless encoding of coordinates as bytes. Value and type of each number are preserved.

LVIS writes coordinates with two decimals. Those below 655.36 are stored as n hundredths in two bytes instead of the
eight of a float64. This is exact: n / 100, rounded once by IEEE division, is the float64 that a parser returns for the
decimal fraction.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

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
    ends = np.array([len(numbers)])
    if whole is None:
        return next(encode_all(numbers, ends))
    mixed = [int(number) if is_whole else number for number, is_whole in zip(numbers.tolist(), whole)]
    return TEXT, json.dumps(mixed).encode()


def encode_all(numbers: np.ndarray, ends: np.ndarray) -> Iterator[tuple[int, bytes]]:
    """
    Encode many parts of an array, none of which has integers.

    Args:
        numbers: (n,) float64.
        ends: (p,) where each part ends, and the next one begins.

    Yields:
        for each part the result of :func:`encode`.
    """
    within = (numbers >= 0) & (numbers < 656)
    hundredths = np.minimum(np.rint(np.where(within, numbers, 0) * 100), 65535).astype(_HUNDREDTHS)
    # As bits, because 0.0 == -0.0.
    inexact = ~within | ((hundredths / 100).view(np.int64) != numbers.view(np.int64))
    num_inexact = np.diff(np.append(0, np.cumsum(inexact))[ends], prepend=0)
    start = 0
    for end, is_inexact in zip(ends.tolist(), num_inexact.tolist()):
        part = slice(start, end)
        yield (
            (FLOATS, numbers[part].astype(_FLOATS).tobytes())
            if is_inexact
            else (HUNDREDTHS, hundredths[part].tobytes())
        )
        start = end


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
