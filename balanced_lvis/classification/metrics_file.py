"""The files ``metrics.json`` and progress lines of a run."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from pathlib import Path

from tqdm import tqdm

from ..console.time_left import TimeLeft
from ..utils.io import append
from ..utils.iteration_lines import keep_before
from ..utils.run_files import METRICS

LINE_SECONDS = 20.0

logger = logging.getLogger(__name__)


def keep_until(folder: str | os.PathLike, iteration: int) -> None:
    """Remove the lines of ``metrics.json`` from ``iteration`` on, which a resumed run writes again."""
    keep_before(Path(folder, METRICS), iteration)


def add_metrics(folder: str | os.PathLike, values: dict) -> None:
    """Append a line to ``metrics.json``; ``values`` has "iteration"."""
    append(Path(folder, METRICS), json.dumps(values) + "\n")


class Progress:
    """
    A progress bar with the time left; a line every 20 seconds where standard error is no terminal.

    Args:
        start: first iteration.
        end: iteration after the last one.
    """

    def __init__(self, start: int, end: int):
        self._end = end
        self._terminal = sys.stderr.isatty()
        self._bar = tqdm(total=end, initial=start, unit=" it", disable=not self._terminal)
        began = time.monotonic()
        self._time_left = TimeLeft(end)
        self._time_left(start, began)
        self._next = began + LINE_SECONDS

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exception) -> None:
        self._bar.close()

    def show(self, done: int, loss: float) -> None:
        """
        Args:
            done: number of finished iterations.
            loss: of the last one.
        """
        self._bar.update(done - self._bar.n)
        self._bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
        now = time.monotonic()
        time_left = self._time_left(done, now)
        if not self._terminal and now > self._next:
            self._next = now + LINE_SECONDS
            logger.info("iteration %d/%d, loss %.3f, %s", done, self._end, loss, time_left)
