"""Alternation of killed training runs and fuzzing, with a report after each round."""

from __future__ import annotations

import secrets
import time
from pathlib import Path

from tqdm import tqdm

from balanced_lvis.utils.io import write_json

from .fuzz import Fuzzer
from .kills import KillLoop

FUZZ_SHARE = 0.3  # fraction of the time


def soak(configs: Path, folder: Path, seconds: float, seed: int | None = None, report: Path | None = None) -> dict:
    """
    Kill training runs and fuzz parsers alternately, one process at a time.

    Args:
        configs: folder of the configs.
        folder: folder for data, training runs and files.
        seconds: duration; the current training run is finished first.
        seed: seed of all random choices; None draws one, which is part of the figures.
        report: JSON file for the figures, written after each training run and each round of fuzzing.

    Returns:
        the figures: {"seconds", "seed", "runs": {...}, "fuzzing": {...}, "failures": [...]}.
    """
    seed = secrets.randbelow(2**32) if seed is None else seed
    kills, fuzzer = KillLoop(configs, folder / "runs", seed), Fuzzer(folder / "fuzzing", seed)
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
            bar.set_postfix(kills=figures["runs"]["kills"], inputs=figures["fuzzing"]["inputs"],
                            failures=len(figures["failures"]))  # fmt: skip
            bar.update(min(figures["seconds"], round(seconds)) - bar.n)
    return figures


def _figures(seconds: int, seed: int, kills: KillLoop, fuzzer: Fuzzer) -> dict:
    runs = kills.figures.as_json()
    failures = [*runs.pop("failures"), *fuzzer.crashes]
    return {
        "seconds": seconds, "seed": seed, "runs": runs, "fuzzing": fuzzer.as_json(), "failures": failures,
    }  # fmt: skip
