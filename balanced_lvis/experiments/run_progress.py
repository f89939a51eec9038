"""Progress of parallel training runs: a bar with the time left on a terminal, or else a line from time to time."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from tqdm import tqdm

from ..console.printing import print_text
from ..console.time_left import TimeLeft
from .runs import PreparationRun, Run
from .tables import percent
from .time_estimate import typical_seconds

BAR_SECONDS = 1.0
LINE_SECONDS = 20.0
_BAR_FORMAT = "{percentage:3.0f}%|{bar:16}| {desc}"


class Progress:
    """
    Shows the progress of several runs together.

    Args:
        runs: all runs, those that have not started included.
    """

    def __init__(self, runs: list[Run]):
        self._iterations = {run.key: run.iterations() for run in runs}
        self._time_left = TimeLeft(sum(self._seconds(run) for run in runs))
        self._terminal = sys.stderr.isatty()
        self._bar = tqdm(
            total=self._time_left.total, bar_format=_BAR_FORMAT, dynamic_ncols=True, disable=not self._terminal
        )
        self._every = BAR_SECONDS if self._terminal else LINE_SECONDS
        self._next = time.monotonic() + (0 if self._terminal else BAR_SECONDS)

    def __call__(self, ended: list[Run], running: list[Run], waiting: list[Run]) -> None:
        """Show the progress, if the last time is long enough ago."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self._every
        status = [(run, *self._status(run)) for run in running]
        done = sum(self._seconds(run) for run in ended)
        # Waiting runs may have iterations of an interrupted call.
        done += sum(typical_seconds(run)[0] * self._status(run)[0] for run in (*running, *waiting))
        words = [f"{run.title} {message}" for run, _, message in status]
        text = ", ".join([*words, f"{len(waiting)} waiting"] if waiting else words)
        # The time left comes first: a narrow terminal cuts off the end.
        line = f"{self._time_left(done, time.monotonic())}: {text}"
        if self._terminal:
            self._bar.n = done
            self._bar.set_description_str(line)
        elif text:
            print_text(f"{100 * done / self._time_left.total:.0f}%, {line}")

    def close(self) -> None:
        self._bar.close()

    def _seconds(self, run: Run) -> float:
        """Typical seconds of a whole run, as iterations of second stages are cheaper than others."""
        per_iteration, per_run = typical_seconds(run)
        return per_iteration * self._iterations[run.key] + per_run

    def _status(self, run: Run) -> tuple[int, str]:
        """Number of finished iterations, and the status to show."""
        iterations = self._iterations[run.key]
        done, loss = run.progress()
        if done >= iterations:  # the iteration logged with the evaluation's results is one higher
            return iterations, "evaluating"
        if not run.trains:
            return 0, "running"
        return done, f"{done}/{iterations} loss {loss:.2f}" if done else "starting"


def box_and_mask_ap(results: dict) -> str:
    """Box and mask AP and APr in a content of ``results.json``, as text."""
    box, box_rare, mask, mask_rare = (
        percent(results.get(task, {}).get(metric)) for task in ("bbox", "segm") for metric in ("AP", "APr")
    )
    return f"box AP {box}, APr {box_rare}, mask AP {mask}, APr {mask_rare}"


class Reporter:
    """
    Prints a line for each run that has ended: its results, its time, and the number of runs left.

    Args:
        count: number of runs.
        describe: the text for a content of ``results.json``.
    """

    def __init__(self, count: int, describe: Callable[[dict], str] = box_and_mask_ap):
        self._left = count
        self._describe = describe

    def __call__(self, run: Run, seconds: float) -> None:
        self._left -= 1
        results = "" if isinstance(run, PreparationRun) else f"{self._describe(run.results())}, "
        took = f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s"
        tqdm.write(f"{run.title}: {results}{took}; runs left: {self._left}")  # above the progress bar
        sys.stdout.flush()
