"""The files ``metrics.json`` and progress lines of a run."""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import os
import sys
import time
from pathlib import Path

from tqdm import tqdm

from ..utils.io import append, replacing

METRICS = "metrics.json"
LINE_SECONDS = 20.0

logger = logging.getLogger(__name__)


def keep_until(folder: str | os.PathLike, iteration: int) -> None:
    """Remove the lines of ``metrics.json`` from ``iteration`` on, which a resumed run writes again."""
    path = Path(folder, METRICS)
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            if json.loads(line)["iteration"] < iteration:
                kept.append(f"{line}\n")
    with replacing(path, make_folder=False) as file:
        file.writelines(kept)


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
        self._start, self._end = start, end
        self._terminal = sys.stderr.isatty()
        self._bar = tqdm(total=end, initial=start, unit=" it", disable=not self._terminal)
        self._began = time.monotonic()
        self._next = self._began + LINE_SECONDS

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
        if not self._terminal and now > self._next:
            self._next = now + LINE_SECONDS
            left = (now - self._began) / max(1, done - self._start) * (self._end - done)
            logger.info(
                "iteration %d/%d, loss %.3f, time left %s",
                done, self._end, loss, datetime.timedelta(seconds=round(left)),
            )  # fmt: skip
