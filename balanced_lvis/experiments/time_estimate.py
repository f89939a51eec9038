"""Estimate of how long runs will take, from earlier runs in the same folder or from typical values."""

from __future__ import annotations

import json
from collections.abc import Sequence

import torch

from ..utils.io import write_json
from .runs import Run

SECONDS = "seconds.json"  # in the folder of a run
# Of the configs of the rendered dataset, on one CPU core: per iteration end to end and in second stages; start-up and
# evaluation of a run.
_PER_ITERATION, _PER_LATER_ITERATION, _PER_RUN = 0.22, 0.09, 30.0


def note_seconds(run: Run, seconds: float) -> None:
    """Add the seconds of a call, which may have been interrupted, to those that the run has taken before."""
    write_json(run.output / SECONDS, {"seconds": round(seconds + (_noted(run) or 0.0), 1)})


def typical_seconds(run: Run) -> tuple[float, float]:
    """
    Returns:
        typical seconds of an iteration of a run, and of its start-up and evaluation: of the rendered dataset on one CPU
        core, elsewhere in proportion.
    """
    if not run.trains:
        return 0.0, _PER_RUN
    return _PER_LATER_ITERATION if run.after else _PER_ITERATION, _PER_RUN


def time_line(to_do: Sequence[Run], runs: Sequence[Run], jobs: int) -> str:
    """
    The estimated time of runs, in a sentence.

    Args:
        to_do: the runs that will be started.
        runs: all runs of the experiment; those that have finished tell how fast the machine is.
        jobs: number of simultaneous runs.

    Returns:
        a sentence; "" if nothing is known of runs of these configs on this device.
    """
    finished = [run for run in runs if run not in to_do]
    costs = [_estimate(run, finished) for run in to_do]
    known = [seconds for seconds, _ in costs if seconds is not None]
    if not to_do or len(known) < len(costs):
        return ""
    # No experiment is shorter than its longest chain of runs.
    total = max(sum(known) / jobs, max(_chain(run, dict(zip(map(id, to_do), known))) for run in to_do))
    measured = all(from_runs for _, from_runs in costs)
    source = "by the finished runs" if measured else "typical of CPU cores; the progress line has the time left"
    return f"Estimated time with {jobs} at a time: {_duration(total)} ({source})"


def _chain(run: Run, seconds: dict[int, float]) -> float:
    return seconds.get(id(run), 0.0) + (_chain(run.after, seconds) if run.after else 0.0)


def _estimate(run: Run, finished: Sequence[Run]) -> tuple[float | None, bool]:
    """Seconds of a run, or None; and whether they are from finished runs of the same kind."""
    same = [(_noted(other), other.iterations()) for other in finished if _kind(other) == _kind(run)]
    known = [(seconds, iterations) for seconds, iterations in same if seconds is not None]
    if known:
        return run.iterations() * sum(seconds for seconds, _ in known) / sum(count for _, count in known), True
    cfg = run.config()
    datasets = cfg.DATASETS.TRAIN if "DATASETS" in cfg else ()  # none in image classification
    if "rendered_train" not in datasets or (cfg.MODEL.DEVICE != "cpu" and torch.cuda.is_available()):
        return None, False
    per_iteration, per_run = typical_seconds(run)
    return per_run + run.iterations() * per_iteration, False


def _kind(run: Run) -> tuple[type[Run], bool]:
    return type(run), run.after is not None


def _noted(run: Run) -> float | None:
    try:
        return float(json.loads((run.output / SECONDS).read_text(encoding="utf-8"))["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _duration(seconds: float) -> str:
    minutes = max(1, round(seconds / 60))
    return f"about {minutes} minute{'s' * (minutes > 1)}" if minutes < 100 else f"about {minutes / 60:.1f} hours"
