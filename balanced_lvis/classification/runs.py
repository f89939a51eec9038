"""The training runs and evaluations of the experiment, as processes of ``balanced-lvis train-classifier``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ..experiments.runs import RESULTS, Run
from .config import device_of, load_config
from .run import EVALUATION


class ClassifierRun(Run):
    """A training run of a classifier."""

    subcommand: ClassVar[str] = "train-classifier"

    def load_config(self, config_file: Path, overrides: Sequence[str] = ()):
        """As in the base class, with ``MODEL.DEVICE`` resolved."""
        cfg = load_config(config_file, overrides)
        cfg.MODEL.DEVICE = str(device_of(cfg))
        return cfg

    def results(self) -> dict:
        """The content of ``results.json``."""
        return self.load(RESULTS)


@dataclass
class EvaluationRun(ClassifierRun):
    """An evaluation of the model of :attr:`after`."""

    def command(self, script: Path | None) -> list:
        """As in the base class, with ``--eval-only``."""
        return ["--eval-only" if word == "--resume" else word for word in super().command(script)]

    def results(self) -> dict:
        """The content of ``evaluation/results.json``."""
        return self.load(EVALUATION, RESULTS)

    def has_results(self) -> bool:
        """Whether the folder has the results of an evaluation, of any config."""
        return (self.output / EVALUATION / RESULTS).exists()

    def finished(self, cfg) -> bool:
        """Whether there are results of this config, newer than the model."""
        results = self.output / EVALUATION / RESULTS
        return (
            results.exists()
            and self._is_of(cfg)
            and self.after is not None
            and self.after.weights.exists()
            and results.stat().st_mtime >= self.after.weights.stat().st_mtime
        )

    def iterations(self) -> int:
        """One, so that progress has something to count."""
        return 1

    def progress(self) -> tuple[int, float]:
        """Nothing is reported until the evaluation has ended."""
        return 0, math.nan

    @property
    def _config_path(self) -> Path:
        return self.output / EVALUATION / "config.yaml"
