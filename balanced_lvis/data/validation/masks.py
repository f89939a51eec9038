"""
Checks and areas of masks from untrusted files.

pycocotools doesn't check its input, and may crash on invalid masks.
"""

from __future__ import annotations

import itertools

import numpy as np
from pycocotools import mask as mask_util

_OFFSET, _CONTINUES, _NEGATIVE = 48, 0x20, 0x10
_LARGEST_SIDE = 1 << 20  # pixels
_FURTHEST = 1 << 18  # pixels; the largest coordinate of a corner: pycocotools draws every pixel of an outline
_LARGEST_IMAGE = 1 << 31  # pixels; pycocotools counts in 32 bits


def rle_runs(rle: dict) -> list[int]:
    """
    Lengths of the runs of a mask, which together cover the image.

    Args:
        rle: {"size": [height, width], "counts": [int, ...] or COCO's compressed string}.

    Raises:
        ValueError: if it can't be decoded, with the reason.
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
    """Why :func:`rle_runs` can't decode a mask; "" if it can."""
    try:
        rle_runs(rle)
    except ValueError as error:
        return str(error)
    return ""


def rle_extent(runs: list[int], height: int) -> tuple[int, int, int, int] | None:
    """
    Args:
        runs: from :func:`rle_runs`: lengths of runs of background and mask alternately, in column-major order.
        height: height of the image.

    Returns:
        x0, y0, x1, y1 of the mask; None for an empty mask.
    """
    ends = np.fromiter(itertools.accumulate(runs), np.int64, len(runs))
    starts, ends = ends[:-1:2], ends[1::2]
    filled = ends > starts
    starts, last = starts[filled], ends[filled] - 1
    if not len(starts):
        return None
    columns, rows = (starts // height, last // height), (starts % height, last % height)
    whole = (columns[1] > columns[0]).any()  # a run that continues in the next column reaches the edges
    low, high = (0, height) if whole else (int(rows[0].min()), int(rows[1].max()) + 1)
    return int(columns[0].min()), low, int(columns[1].max()) + 1, high


def decompress(text: str) -> list[int]:
    """
    Decode COCO's compressed RLE: 5 bits per character, lowest first. From the fourth run on, the
    difference to the one two places before is stored.

    Raises:
        ValueError: if the text is not valid.
    """
    runs: list[int] = []
    value, shift = 0, 0
    for character in text:
        bits = ord(character) - _OFFSET
        if not 0 <= bits < 64:
            raise ValueError(f"counts contains {character!r}")
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
        raise ValueError("counts is truncated")
    return runs


def mask_area(segmentation: list[list] | dict, width: int, height: int) -> float:
    """
    Number of pixels of a mask within its image, as pycocotools counts them. Pixels of several polygons count once.

    Args:
        segmentation: polygons, or a valid RLE mask.
        width, height: size of the image.

    Raises:
        ValueError: if the polygons can't be drawn.
    """
    if isinstance(segmentation, dict):
        return float(mask_util.area(segmentation))
    for polygon in segmentation:
        if len(polygon) < 6 or len(polygon) % 2:
            raise ValueError("a polygon has fewer than three points, or an odd number of coordinates")
        if not {float, int}.issuperset(map(type, polygon)):
            raise ValueError(f"a polygon is {polygon!r:.60}")
        if not all(-_FURTHEST <= value <= _FURTHEST for value in polygon):
            raise ValueError(f"a polygon exceeds {_FURTHEST:,} pixels, so that its area can't be computed")
    if width * height > _LARGEST_IMAGE:
        raise ValueError(f"an image of {width} x {height} pixels is too large to compute areas")
    return float(mask_util.area(mask_util.merge(mask_util.frPyObjects(segmentation, height, width))))
