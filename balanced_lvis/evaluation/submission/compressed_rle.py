"""
Safe decoder of COCO's compressed RLE, for many untrusted masks at once. It never fails or reads out of bounds.

A character encodes 5 bits of a number, lowest bits first, and whether another character follows. From the fourth run
on, a number is the difference from the run two positions before. pycocotools decodes this in C without checks.

Shape shorthand: N masks with B characters and R runs in total.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Reasons why a mask can't be decoded, by code; 0 means that it can.
REASONS = (
    "",
    "counts contains an invalid character",
    "counts is truncated",
    "counts has a number with more than 7 characters",
    "counts has a negative run",
    "counts does not match the number of pixels",
    "counts is longer than any mask of this size",
)
_CHARACTER, _CUT_OFF, _LONG_NUMBER, _NEGATIVE, _PIXELS, _TOO_LONG = range(1, len(REASONS))
# Enough for signed 32-bit numbers, so that the sums of a valid mask do not overflow 64 bits.
_LONGEST_NUMBER = 7
# Characters decoded at a time; each takes about 100 bytes of memory.
_PART = 1 << 18


def mask_areas(counts: Sequence[str], pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    Areas of masks.

    Args:
        counts: N arbitrary strings.
        pixels: (N,) height x width of each mask.

    Returns:
        (N,) int64 areas in pixels, 0 if a mask can't be decoded; (N,) int8 indices into :data:`REASONS`.
    """
    pixels = np.asarray(pixels, np.int64)
    codes = np.zeros(len(counts), np.int8)
    lengths = np.fromiter(map(len, counts), np.int64, len(counts))
    codes[~np.fromiter(map(str.isascii, counts), bool, len(counts))] = _CHARACTER
    codes[(lengths > _LONGEST_NUMBER * (pixels + 2)) & (codes == 0)] = _TOO_LONG
    areas = np.zeros(len(counts), np.int64)
    rows = np.flatnonzero(codes == 0)
    part_of = (np.cumsum(lengths[rows]) - lengths[rows]) // _PART
    for part in np.split(rows, np.flatnonzero(np.diff(part_of)) + 1):
        text = "".join([counts[row] for row in part.tolist()]).encode("ascii")
        areas[part], codes[part] = _decode(text, lengths[part], pixels[part])
    return areas, codes


def run_lengths(counts: Sequence[bytes]) -> list[np.ndarray]:
    """
    Decode masks that are known to be valid.

    Args:
        counts: N compressed RLEs.

    Returns:
        N int64 arrays of alternating runs outside and inside, the first outside. The last may be 0.
    """
    lengths = np.fromiter(map(len, counts), np.int64, len(counts))
    bits = np.frombuffer(b"".join(counts), np.uint8) - np.uint8(48)
    owner = np.repeat(np.arange(len(counts)), lengths)
    last = np.cumsum(lengths)[lengths > 0] - 1
    values, run_owner = _numbers(bits, owner, last, np.zeros(len(counts), np.int8))
    first, inside, outside = _runs(values, run_owner, len(counts))
    later = np.stack([inside, outside], axis=1).ravel()
    begins, ends = _bounds(2 * (np.bincount(run_owner, minlength=len(counts)) // 2))
    return [np.append(run, later[begin:end]) for run, begin, end in zip(first, begins.tolist(), ends.tolist())]


def _decode(text: bytes, lengths: np.ndarray, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As :func:`mask_areas`, for N masks of ``lengths`` characters each, concatenated in ``text``."""
    codes = np.zeros(len(lengths), np.int8)
    bits = np.frombuffer(text, np.uint8) - np.uint8(48)  # lower characters wrap around to more than 63
    owner = np.repeat(np.arange(len(lengths)), lengths)
    values, run_owner = _numbers(bits, owner, np.cumsum(lengths)[lengths > 0] - 1, codes)
    first, inside, outside = _runs(values, run_owner, len(lengths))
    begins, ends = _bounds(np.bincount(run_owner, minlength=len(lengths)) // 2)
    areas, others = _sums(inside, begins, ends), _sums(outside, begins, ends)
    odd = [np.abs(runs) > pixels.max(initial=0) for runs in (inside, outside)]  # whose sums might overflow
    negative = (_sums((inside < 0) | (outside < 0), begins, ends) > 0) | (first < 0)
    wrong = (first + areas + others != pixels) | (_sums(odd[0] | odd[1], begins, ends) > 0)
    codes[(codes == 0) & negative] = _NEGATIVE
    codes[(codes == 0) & wrong] = _PIXELS
    codes[np.unique(owner[bits > 63])] = _CHARACTER
    areas[codes != 0] = 0
    return areas, codes


def _numbers(bits, owner, last, codes) -> tuple[np.ndarray, np.ndarray]:
    """(R,) int64 numbers and (R,) indices of their masks. Errors go to ``codes``; ``last`` are the last characters."""
    goes_on = (bits & 0x20) != 0
    codes[owner[last[goes_on[last]]]] = _CUT_OFF
    goes_on[last] = False
    ends = np.flatnonzero(~goes_on)
    begins = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else ends
    sizes = ends - begins + 1
    codes[owner[begins[sizes > _LONGEST_NUMBER]]] = _LONG_NUMBER
    values = np.zeros(len(ends), np.int64)
    longer = np.arange(len(ends))
    for place in range(min(sizes.max(initial=0), _LONGEST_NUMBER)):
        longer = longer[sizes[longer] > place]
        values[longer] |= (bits[begins[longer] + place] & 0x1F).astype(np.int64) << (5 * place)
    negative = (bits[ends] & 0x10) != 0
    values[negative] -= np.int64(1) << (5 * np.minimum(sizes[negative], _LONGEST_NUMBER))
    return values, owner[ends]


def _runs(values, owner, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    (N,) first runs, which are outside; and the other runs as pairs (inside, outside), mask by mask. A missing second
    run of a pair is 0.
    """
    num_runs = np.bincount(owner, minlength=number)
    begins, _ = _bounds(num_runs)
    rank = np.arange(len(values)) - begins[owner]
    first = np.zeros(number, np.int64)
    first[owner[rank == 0]] = values[rank == 0]
    pair_begins, pair_ends = _bounds(num_runs // 2)
    later = rank > 0
    places = 2 * pair_begins[owner[later]] + rank[later] - 1
    pairs = np.zeros(2 * (pair_ends[-1] if number else 0), np.int64)
    pairs[places] = values[later]
    totals = np.concatenate([np.zeros((1, 2), np.int64), np.cumsum(pairs.reshape(-1, 2), axis=0)])
    runs = totals[1:] - np.repeat(totals[pair_begins], pair_ends - pair_begins, axis=0)
    is_there = np.zeros(len(pairs), bool)
    is_there[places] = True
    runs[~is_there.reshape(-1, 2)] = 0
    return first, runs[:, 0], runs[:, 1]


def _bounds(sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Begin and end of successive ranges."""
    ends = np.cumsum(sizes)
    return ends - sizes, ends


def _sums(values, begins, ends) -> np.ndarray:
    """(N,) sums of ranges of ``values``; correct even if the total overflows."""
    totals = np.concatenate([[0], np.cumsum(values, dtype=np.int64)])
    return totals[ends] - totals[begins]
