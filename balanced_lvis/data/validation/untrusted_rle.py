"""RLE masks of unknown origin. pycocotools' decoder trusts its input, and may crash on a wrong one."""

from __future__ import annotations

import itertools

import numpy as np

_OFFSET, _CONTINUES, _NEGATIVE = 48, 0x20, 0x10
_LARGEST_SIDE = 1 << 20  # pixels


def rle_runs(rle: dict) -> list[int]:
    """
    The runs of a mask, which together cover it.

    Args:
        rle: {"size": [height, width], "counts": [int, ...] or COCO's compressed string}.

    Raises:
        ValueError: if it can't be decoded, with the reason in words.
    """
    size, counts = rle.get("size"), rle.get("counts")
    if not isinstance(size, list) or len(size) != 2 or any(type(n) is not int for n in size):
        raise ValueError(f"size is {size!r:.60}")
    if not all(0 < n <= _LARGEST_SIDE for n in size):
        raise ValueError(f"size is {size!r:.60}")
    if isinstance(counts, str):
        counts = decompress(counts)
    if not isinstance(counts, list) or any(type(n) is not int for n in counts):
        raise ValueError(f"counts are {counts!r:.60}")
    if any(n < 0 for n in counts):
        raise ValueError("counts has a negative run")
    pixels = size[0] * size[1]
    if sum(counts) != pixels:
        raise ValueError(f"counts covers {sum(counts)} pixels of {pixels}")
    return counts


def rle_problem(rle: dict) -> str:
    """As :func:`rle_runs`: why a mask can't be decoded, in words; "" if it can."""
    try:
        rle_runs(rle)
    except ValueError as error:
        return str(error)
    return ""


def rle_extent(runs: list[int], height: int) -> tuple[int, int, int, int] | None:
    """
    Args:
        runs: from :func:`rle_runs`: background and mask in turn, down the columns.
        height: of the image.

    Returns:
        x0, y0, x1, y1 of the mask; None for one without a pixel.
    """
    ends = np.fromiter(itertools.accumulate(runs), np.int64, len(runs))
    starts, ends = ends[:-1:2], ends[1::2]
    filled = ends > starts
    starts, last = starts[filled], ends[filled] - 1
    if not len(starts):
        return None
    columns, rows = (starts // height, last // height), (starts % height, last % height)
    whole = (columns[1] > columns[0]).any()  # a run that goes on in the next column reaches the edges
    low, high = (0, height) if whole else (int(rows[0].min()), int(rows[1].max()) + 1)
    return int(columns[0].min()), low, int(columns[1].max()) + 1, high


def decompress(text: str) -> list[int]:
    """
    Run lengths of COCO's compressed form: 5 bits per character, lowest first, each from the third run on as the
    difference to the run two before it.

    Raises:
        ValueError: if it is none.
    """
    runs: list[int] = []
    value, shift = 0, 0
    for character in text:
        bits = ord(character) - _OFFSET
        if not 0 <= bits < 64:
            raise ValueError(f"counts holds {character!r}")
        if shift > 60:
            raise ValueError("counts has a run of more than 12 characters")
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & _CONTINUES:
            continue
        if bits & _NEGATIVE:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value, shift = 0, 0
    if shift:
        raise ValueError("counts is cut off")
    return runs
