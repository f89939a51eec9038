"""Run-length encoded masks of unknown origin. pycocotools' decoder trusts its input, and may crash on a wrong one."""

from __future__ import annotations

_OFFSET, _CONTINUES, _NEGATIVE = 48, 0x20, 0x10
_LARGEST_SIDE = 1 << 20  # pixels


def rle_problem(rle: dict) -> str:
    """
    Args:
        rle: {"size": [height, width], "counts": [int, ...] or COCO's compressed string}.

    Returns:
        why it can't be decoded, in words; "" if it can.
    """
    size, counts = rle.get("size"), rle.get("counts")
    if not isinstance(size, list) or len(size) != 2 or any(type(n) is not int for n in size):
        return f"size is {size!r:.60}"
    if not all(0 < n <= _LARGEST_SIDE for n in size):
        return f"size is {size!r:.60}"
    if isinstance(counts, str):
        try:
            counts = decompress(counts)
        except ValueError as error:
            return str(error)
    if not isinstance(counts, list) or any(type(n) is not int for n in counts):
        return f"counts are {counts!r:.60}"
    if any(n < 0 for n in counts):
        return "counts has a negative run"
    pixels = size[0] * size[1]
    if sum(counts) != pixels:
        return f"counts covers {sum(counts)} pixels of {pixels}"
    return ""


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
