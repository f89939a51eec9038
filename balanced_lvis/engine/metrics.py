"""``metrics.json``, to which Detectron2 adds a line at a time: as it would be without an interruption."""

from __future__ import annotations

import json
import os

from ..io import replacing

METRICS = "metrics.json"


def forget_after(folder: str | os.PathLike, iteration: int) -> None:
    """
    Drop what a run that goes on will write again: lines of later iterations, and one that a kill has cut short.

    Args:
        folder: ``OUTPUT_DIR``.
        iteration: the last one that is done.
    """
    path = os.path.join(folder, METRICS)
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.readlines()
    except OSError:
        return
    kept = [line for line in lines if line.endswith("\n") and _iteration(line) <= iteration]
    if len(kept) < len(lines):
        with replacing(path) as file:
            file.writelines(kept)


def _iteration(line: str) -> float:
    try:
        return json.loads(line)["iteration"]
    except (ValueError, KeyError, TypeError):
        return float("inf")
