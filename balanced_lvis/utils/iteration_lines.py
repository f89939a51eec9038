"""Files of one JSON object per line and iteration, such as ``metrics.json``, also after interruptions."""

from __future__ import annotations

import json
import math
import os

from .io import replacing


def read_lines(path: str | os.PathLike) -> list[str]:
    """The lines of a file, with their ends; none if it can't be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.readlines()
    except OSError:
        return []


def iteration_of(line: str) -> float:
    """The iteration of a line; infinity if it has none."""
    try:
        iteration = json.loads(line)["iteration"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return math.inf
    return iteration if isinstance(iteration, (int, float)) else math.inf


def keep_before(path: str | os.PathLike, iteration: int) -> None:
    """
    Remove the lines that a resumed run will write again.

    A last line without its end is one of them, even if it can be read: a run ends each line before it saves a
    checkpoint.

    Args:
        path: the file; nothing is done if it can't be read, and an unchanged file is not written.
        iteration: the first iteration to remove.
    """
    lines = read_lines(path)
    kept = [line for line in lines if line.endswith("\n") and iteration_of(line) < iteration]
    if len(kept) < len(lines):
        with replacing(path, make_folder=False) as file:
            file.writelines(kept)
