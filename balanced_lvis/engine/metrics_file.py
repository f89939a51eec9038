"""``metrics.json``: one line per iteration that is logged or evaluated, as if the run had never been interrupted."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
from collections import defaultdict
from collections.abc import Iterable

from detectron2.engine import HookBase
from detectron2.engine.hooks import PeriodicWriter
from detectron2.utils.events import CommonMetricPrinter, EventWriter, get_event_storage

from ..utils.io import append, replacing
from ..utils.storage import clear_errors

logger = logging.getLogger(__name__)

METRICS = "metrics.json"
PREVIOUS = "metrics.previous.json"
_WINDOW = 20  # iterations over which Detectron2 takes the median of a loss


class MetricsWriter(EventWriter):
    """
    Detectron2's ``JSONWriter``, but every number is on disk when a method returns, and each iteration has one line.

    Detectron2's keeps only the latest of several evaluations between two writes.

    Args:
        folder: ``OUTPUT_DIR``.
    """

    def __init__(self, folder: str | os.PathLike):
        self._path = os.path.join(folder, METRICS)
        self._written: dict[str, int] = {}  # the iteration of the latest value that is in the file, by name
        self._last = math.inf  # the file's last iteration

    def open(self) -> None:
        """
        Make the file if there is none.

        Raises:
            OSError: if it can't be written.
        """
        append(self._path, "")
        self._last = max(map(_iteration, _lines(self._path)), default=-1)

    def write(self):
        """Add all numbers that have not been written."""
        self._write(get_event_storage().latest())

    def write_only(self, names: Iterable[str]) -> None:
        """
        Args:
            names: of the numbers to add; all others stay for :meth:`write`.
        """
        self._write(names)

    def _write(self, names: Iterable[str]) -> None:
        latest = get_event_storage().latest_with_smoothing_hint(_WINDOW)
        lines: dict[int, dict[str, float]] = defaultdict(dict)
        for name in names:
            value, iteration = latest[name]
            if iteration > self._written.get(name, -1):
                lines[iteration][name] = value
        for iteration in sorted(lines):
            self._add(iteration, lines[iteration])
            self._written.update(dict.fromkeys(lines[iteration], iteration))

    def _add(self, iteration: int, numbers: dict[str, float]) -> None:
        if iteration > self._last:
            append(self._path, _line({**numbers, "iteration": iteration}))
            self._last = iteration
            return
        lines = {found: json.loads(line) for line in _lines(self._path) if (found := _iteration(line)) < math.inf}
        lines[iteration] = {**lines.get(iteration, {}), **numbers, "iteration": iteration}
        with replacing(self._path, make_folder=False) as file:
            file.writelines(_line(lines[key]) for key in sorted(lines))


class WriteHook(PeriodicWriter):
    """
    Writes metrics every 20 iterations and after the last one. It has to come before the hook that saves: a run that is
    resumed from an iteration's checkpoint has no numbers of that iteration.

    Args:
        writers: of the run, open until :class:`CloseHook` closes them.
        folder: ``OUTPUT_DIR``.
    """

    def __init__(self, writers: list[EventWriter], folder: str | os.PathLike):
        super().__init__(writers)
        self._folder = folder

    def before_train(self):
        """Find out before work starts that the file can't be written."""
        with clear_errors(self._folder):
            for writer in self._writers:
                if isinstance(writer, MetricsWriter):
                    writer.open()

    def after_step(self):
        """
        As the base class's.

        Raises:
            StorageError: if the disk is full or the like.
        """
        with clear_errors(self._folder):
            super().after_step()

    def after_train(self):
        """Nothing: evaluation is yet to come."""

    def write_evaluation(self, names: Iterable[str]) -> None:
        """
        Args:
            names: of an evaluation's numbers in the storage.

        Raises:
            StorageError: as :meth:`after_step`.
        """
        with clear_errors(self._folder):
            for writer in self._writers:
                if isinstance(writer, MetricsWriter):
                    writer.write_only(names)
                elif not isinstance(writer, CommonMetricPrinter):
                    writer.write()


class CloseHook(HookBase):
    """
    Closes the writers. What is left to be written is written only at the end of a run: one that ends by an error will
    be resumed from a checkpoint, and would else have a line more than one that never stopped.

    Args:
        writers: of the run.
    """

    def __init__(self, writers: list[EventWriter]):
        self._writers = writers

    def after_train(self):
        """As the base class's."""
        for writer in self._writers:
            if self.trainer.iter >= self.trainer.max_iter:
                writer.write()
                writer.close()
            else:
                with contextlib.suppress(OSError):  # the error that ends the run matters more
                    writer.close()


def forget_after(folder: str | os.PathLike, iteration: int) -> None:
    """
    Drop what a resumed run will write again: lines of later iterations, and one that a kill has cut short.

    Args:
        folder: ``OUTPUT_DIR``.
        iteration: the last one that is done; -1 if none is.
    """
    path = os.path.join(folder, METRICS)
    lines = _lines(path)
    kept = [line for line in lines if line.endswith("\n") and _iteration(line) <= iteration]
    if len(kept) < len(lines):
        with replacing(path) as file:
            file.writelines(kept)


def set_aside(folder: str | os.PathLike) -> None:
    """
    Rename the metrics of an earlier run, so that a new one's lines are not mixed with them.

    Args:
        folder: ``OUTPUT_DIR``.
    """
    path, previous = (os.path.join(folder, name) for name in (METRICS, PREVIOUS))
    if os.path.isfile(path) and os.path.getsize(path):
        os.replace(path, previous)
        logger.warning("%s of an earlier run was renamed to %s.", path, PREVIOUS)


def has_evaluation(folder: str | os.PathLike, iteration: int) -> bool:
    """
    Whether an evaluation's numbers are on record.

    Args:
        folder: ``OUTPUT_DIR``.
        iteration: after which it was, from 0 on.
    """
    lines = _lines(os.path.join(folder, METRICS))
    return any(_iteration(line) == iteration and _has_average_precision(line) for line in lines)


def _line(numbers: dict[str, float]) -> str:
    return json.dumps(numbers, sort_keys=True) + "\n"


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.readlines()
    except OSError:
        return []


def _has_average_precision(line: str) -> bool:
    """By names such as "bbox/AP" and "my_val/segm/AP"; it may be NaN."""
    return any(name.endswith("/AP") for name in json.loads(line))


def _iteration(line: str) -> float:
    """Of a line; infinite if it has none."""
    try:
        iteration = json.loads(line)["iteration"]
    except (ValueError, KeyError, TypeError):
        return math.inf
    return iteration if isinstance(iteration, (int, float)) else math.inf
