"""Training curves of a run, from its ``metrics.json``."""

from __future__ import annotations

import json
import math
import os
from collections import defaultdict
from pathlib import Path

from ..analysis.sources import config_of_run
from ..utils.iteration_lines import iteration_of, read_lines
from ..utils.run_files import METRICS

MOST_POINTS = 500  # of a curve
_TOTAL = "total_loss"
_WITHOUT = ("iteration", "eta_seconds", "data_time", "time", "rank_data_time")


def training_curves(results: str) -> dict[str, dict[str, list[float]]]:
    """
    Args:
        results: path of the results of a run.

    Returns:
        {metric: {"x": iterations, "y": values}}, at most :data:`MOST_POINTS` of each: the total loss, that of
        each validation set, the other losses of training, the rest; empty without a ``metrics.json``.
    """
    config = config_of_run(results)
    if config is None:
        return {}
    found: dict[str, dict[int, float]] = defaultdict(dict)
    for line in read_lines(os.path.join(Path(config).parent, METRICS)):
        iteration = iteration_of(line)
        if math.isfinite(iteration):
            for name, value in json.loads(line).items():
                if name not in _WITHOUT and _is_number(value):
                    found[name][int(iteration)] = value
    return {name: _thinned(found[name]) for name in sorted(found, key=_place)}


def _place(name: str) -> tuple[bool, bool, bool, str]:
    of_validation = name.endswith(f"validation/{_TOTAL}")  # after the name of a dataset, if there are several
    return name != _TOTAL, not of_validation, not name.startswith("loss"), name


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _thinned(points: dict[int, float]) -> dict[str, list[float]]:
    iterations = sorted(points)
    step = math.ceil(len(iterations) / MOST_POINTS)
    kept = iterations[::-step][::-1]  # with the last one
    return {"x": [*kept], "y": [float(f"{points[iteration]:.5g}") for iteration in kept]}
