"""Kills and fuzzing in turn, with figures that survive the soak itself being killed."""

from __future__ import annotations

import secrets
import time
from pathlib import Path

from tqdm import tqdm

from ..io import write_json
from .kills import KillLoop

KILL_SHARE = 0.7  # of the time


def soak(configs: Path, folder: Path, seconds: float, seed: int | None = None, report: Path | None = None) -> dict:
    """
    Kill trainings and fuzz parsers, in turn, one process at a time.

    Args:
        configs: the folder of configs.
        folder: for data, trainings and files.
        seconds: for how long; a training under way is ended first.
        seed: of what happens when; None draws one, which is in the figures.
        report: a JSON file for the figures, written after every training and every round of fuzzing.

    Returns:
        the figures: {"seconds", "seed", "trainings": {...}, "failures": [...]}.
    """
    seed = secrets.randbelow(2**32) if seed is None else seed
    kills = KillLoop(configs, folder, seed)
    start = time.monotonic()
    figures = {}
    with tqdm(total=round(seconds), unit="s", disable=None) as bar:
        while not figures or time.monotonic() - start < seconds:
            kills.run_one()
            figures = {"seconds": round(time.monotonic() - start), "seed": seed, "trainings": kills.figures.as_json()}
            figures["failures"] = figures["trainings"].pop("failures")
            if report:
                write_json(report, figures, indent=1)
            bar.set_postfix(kills=figures["trainings"]["kills"], failures=len(figures["failures"]))
            bar.update(min(figures["seconds"], round(seconds)) - bar.n)
    return figures
