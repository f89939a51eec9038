"""The file ``metrics.json``: one line per logged or evaluated iteration, also after interruptions."""

from __future__ import annotations

import json
import logging
import math
import os
from collections import defaultdict
from collections.abc import Iterable

from detectron2.utils.events import EventWriter, get_event_storage

from ..utils.io import append, replacing
from ..utils.iteration_lines import iteration_of, keep_before, read_lines
from ..utils.run_files import METRICS, PREVIOUS_METRICS

logger = logging.getLogger(__name__)

WINDOW = 20  # iterations over which Detectron2 takes the median of a loss


class MetricsWriter(EventWriter):
    """
    Writes metrics like Detectron2's ``JSONWriter``, with one line per iteration, and flushes them to disk at once.

    Of several evaluations between two writes, Detectron2's writer keeps only the latest.

    Args:
        folder: ``OUTPUT_DIR``.
    """

    def __init__(self, folder: str | os.PathLike):
        self._path = os.path.join(folder, METRICS)
        self._written: dict[str, int] = {}  # name -> iteration of the latest value in the file
        self._last = math.inf  # the file's last iteration

    def open(self) -> None:
        """
        Create the file if it doesn't exist.

        Raises:
            OSError: if the file can't be written.
        """
        append(self._path, "")
        self._last = max(map(iteration_of, read_lines(self._path)), default=-1)

    def write(self):
        """Write all new metrics."""
        self._write(get_event_storage().latest())

    def write_only(self, names: Iterable[str]) -> None:
        """
        Write some metrics and leave the others to :meth:`write`.

        Args:
            names: names of the metrics to write.
        """
        self._write(names)

    def _write(self, names: Iterable[str]) -> None:
        latest = get_event_storage().latest_with_smoothing_hint(WINDOW)
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
        lines = {found: json.loads(line) for line in read_lines(self._path) if (found := iteration_of(line)) < math.inf}
        lines[iteration] = {**lines.get(iteration, {}), **numbers, "iteration": iteration}
        with replacing(self._path, make_folder=False) as file:
            file.writelines(_line(lines[key]) for key in sorted(lines))


def forget_after(folder: str | os.PathLike, iteration: int) -> None:
    """
    Remove the lines that a resumed run will write again, and an incomplete last line of a killed run.

    Args:
        folder: ``OUTPUT_DIR``.
        iteration: the last finished iteration; -1 if there is none.
    """
    keep_before(os.path.join(folder, METRICS), iteration + 1)


def set_aside(folder: str | os.PathLike) -> None:
    """
    Rename the metrics of an earlier run, so that those of a new run are not mixed with them.

    Args:
        folder: ``OUTPUT_DIR``.
    """
    path, previous = (os.path.join(folder, name) for name in (METRICS, PREVIOUS_METRICS))
    if os.path.isfile(path) and os.path.getsize(path):
        os.replace(path, previous)
        logger.warning("%s of an earlier run was renamed to %s.", path, PREVIOUS_METRICS)


def has_evaluation(folder: str | os.PathLike, iteration: int) -> bool:
    """
    Whether the file has the results of an evaluation.

    Args:
        folder: ``OUTPUT_DIR``.
        iteration: the iteration before the evaluation, from 0.
    """
    lines = read_lines(os.path.join(folder, METRICS))
    return any(iteration_of(line) == iteration and _has_average_precision(line) for line in lines)


def _line(numbers: dict[str, float]) -> str:
    return json.dumps(numbers, sort_keys=True) + "\n"


def _has_average_precision(line: str) -> bool:
    """Whether a line has a name such as "bbox/AP" or "my_val/segm/AP"; the value may be NaN."""
    return any(name.endswith("/AP") for name in json.loads(line))
