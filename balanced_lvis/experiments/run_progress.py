"""Progress of parallel training runs: a bar with the time left on a terminal, or else a line from time to time."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm

from ..console.printing import print_text
from .runs import RESULTS, Run
from .tables import percent

BAR_SECONDS = 1.0
LINE_SECONDS = 20.0
# The bar and the time left come first: a narrow terminal cuts off the end.
_BAR_FORMAT = "{percentage:3.0f}%|{bar:16}| {elapsed}<{remaining}{postfix}"
_UNKNOWN = "?"


class Progress:
    """
    Shows the progress of several runs together. The time left assumes that all iterations take equally long.

    Args:
        runs: all runs, those that have not started included.
    """

    def __init__(self, runs: list[Run]):
        self._iterations = {run.key: run.config().SOLVER.MAX_ITER for run in runs}
        self._total = sum(self._iterations.values())
        # Iterations of interrupted runs say nothing about the speed of this call.
        self._initial = sum(min(run.progress()[0], self._iterations[run.key]) for run in runs)
        self._start = time.monotonic()
        self._terminal = sys.stderr.isatty()
        self._bar = tqdm(
            total=self._total, initial=self._initial, bar_format=_BAR_FORMAT, dynamic_ncols=True, smoothing=0,
            disable=not self._terminal,
        )  # fmt: skip
        self._every = BAR_SECONDS if self._terminal else LINE_SECONDS
        self._next = self._start + (0 if self._terminal else BAR_SECONDS)

    def __call__(self, ended: list[Run], running: list[Run], waiting: int) -> None:
        """Show the progress, if the last time is long enough ago."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self._every
        status = [(run, *self._status(run)) for run in running]
        done = sum(self._iterations[run.key] for run in ended) + sum(count for _, count, _ in status)
        words = [f"{run.title} {message}" for run, _, message in status]
        text = ", ".join([*words, f"{waiting} waiting"] if waiting else words)
        if self._terminal:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.n = max(done, self._bar.n)
            self._bar.refresh()
        elif text:
            print_text(progress_line(done, self._initial, self._total, time.monotonic() - self._start, text))

    def close(self) -> None:
        self._bar.close()

    def _status(self, run: Run) -> tuple[int, str]:
        """Number of finished iterations, and the status to show."""
        iterations = self._iterations[run.key]
        done, loss = run.progress()
        if done >= iterations:  # the iteration logged with the evaluation's results is one higher
            return iterations, "evaluating"
        return done, f"{done}/{iterations} loss {loss:.2f}" if done else "starting"


def progress_line(done: int, initial: int, total: int, seconds: float, text: str) -> str:
    """
    The line that replaces a bar without a terminal: ``35%, 02:10 elapsed, 04:02 left: RFS seed 0 210/600 loss 1.93``.

    Args:
        done: number of finished iterations of all runs, those of earlier calls included.
        initial: number of iterations that were finished before this call.
        total: number of iterations of all runs.
        seconds: wall-clock seconds of this call.
        text: status of the runs.
    """
    left = seconds / (done - initial) * (total - done) if done > initial else None
    remaining = _UNKNOWN if left is None else tqdm.format_interval(left)
    return f"{100 * done // max(total, 1)}%, {tqdm.format_interval(seconds)} elapsed, {remaining} left: {text}"


class Reporter:
    """
    Prints a line for each run that has ended: mask AP, APr and box AP.

    Args:
        count: number of runs.
    """

    def __init__(self, count: int):
        self._left = count

    def __call__(self, run: Run, seconds: float) -> None:
        self._left -= 1
        results = run.load(RESULTS)
        box, box_rare, mask, mask_rare = (
            percent(results.get(task, {}).get(metric)) for task in ("bbox", "segm") for metric in ("AP", "APr")
        )
        tqdm.write(  # above the progress bar
            f"{run.title}: box AP {box}, APr {box_rare}, mask AP {mask}, APr {mask_rare}, {seconds / 60:.1f} min; "
            f"runs left: {self._left}"
        )
        sys.stdout.flush()
