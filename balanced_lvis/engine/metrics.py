"""``metrics.json``, to which Detectron2 adds a line at a time: as it would be without an interruption."""

from __future__ import annotations

import json
import os
from collections.abc import Callable

from detectron2.utils.events import EventWriter

from ..io import replacing

METRICS = "metrics.json"


class LateWriter(EventWriter):
    """
    A writer that is made when it has to write: one with an open file would not see that :func:`forget_after` has put
    another in its place.

    Args:
        make: returns the writer.
    """

    def __init__(self, make: Callable[[], EventWriter]):
        self._make = make
        self._writer: EventWriter | None = None

    def write(self):
        """As the base class's."""
        if self._writer is None:
            self._writer = self._make()
        self._writer.write()

    def close(self):
        """As the base class's."""
        if self._writer is not None:
            self._writer.close()


def forget_after(folder: str | os.PathLike, iteration: int) -> None:
    """
    Drop what a run that goes on will write again: lines of later iterations, and one that a kill has cut short.

    Args:
        folder: ``OUTPUT_DIR``.
        iteration: the last one that is done.
    """
    path, lines = os.path.join(folder, METRICS), _lines(folder)
    kept = [line for line in lines if line.endswith("\n") and _iteration(line) <= iteration]
    if len(kept) < len(lines):
        with replacing(path) as file:
            file.writelines(kept)


def has_evaluation(folder: str | os.PathLike, iteration: int) -> bool:
    """
    Whether an evaluation's numbers are on record.

    Args:
        folder: ``OUTPUT_DIR``.
        iteration: after which it was, from 0 on.
    """
    return any(_iteration(line) == iteration and _has_average_precision(line) for line in _lines(folder))


def _lines(folder: str | os.PathLike) -> list[str]:
    try:
        with open(os.path.join(folder, METRICS), encoding="utf-8", errors="replace") as file:
            return file.readlines()
    except OSError:
        return []


def _has_average_precision(line: str) -> bool:
    """By names such as "bbox/AP" and "my_val/segm/AP"; it may be NaN."""
    return any(name.endswith("/AP") for name in json.loads(line))


def _iteration(line: str) -> float:
    try:
        return json.loads(line)["iteration"]
    except (ValueError, KeyError, TypeError):
        return float("inf")
