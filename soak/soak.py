"""Kills and fuzzing in turn, with figures that survive the soak itself being killed."""

from __future__ import annotations

import secrets
import time
from pathlib import Path

from tqdm import tqdm

from balanced_lvis.utils.io import write_json

from .fuzz import Fuzzer
from .kills import KillLoop

FUZZ_SHARE = 0.3  # of the time


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
        the figures: {"seconds", "seed", "trainings": {...}, "fuzzing": {...}, "failures": [...]}.
    """
    seed = secrets.randbelow(2**32) if seed is None else seed
    kills, fuzzer = KillLoop(configs, folder / "trainings", seed), Fuzzer(folder / "fuzzing", seed)
    start = time.monotonic()
    figures: dict = {}
    with tqdm(total=round(seconds), unit="s", disable=None) as bar:
        while not figures or time.monotonic() - start < seconds:
            turn = time.monotonic()
            kills.run_one(start + seconds)
            fuzzer.run((time.monotonic() - turn) * FUZZ_SHARE / (1 - FUZZ_SHARE))
            figures = _figures(round(time.monotonic() - start), seed, kills, fuzzer)
            if report:
                write_json(report, figures, indent=1)
            bar.set_postfix(kills=figures["trainings"]["kills"], inputs=figures["fuzzing"]["inputs"],
                            failures=len(figures["failures"]))  # fmt: skip
            bar.update(min(figures["seconds"], round(seconds)) - bar.n)
    return figures


def _figures(seconds: int, seed: int, kills: KillLoop, fuzzer: Fuzzer) -> dict:
    trainings = kills.figures.as_json()
    failures = [*trainings.pop("failures"), *fuzzer.crashes]
    return {
        "seconds": seconds, "seed": seed, "trainings": trainings, "fuzzing": fuzzer.as_json(), "failures": failures,
    }  # fmt: skip
