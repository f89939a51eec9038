"""The training runs and evaluations of the experiment, as processes of ``balanced-lvis train-classifier``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from ..experiments import runs
from ..experiments.runs import Run
from .config import device_of, load_config


class ClassifierRun(Run):
    """A training run of a classifier."""

    subcommand: ClassVar[str] = "train-classifier"

    def load_config(self, config_file: Path, overrides: Sequence[str] = ()):
        """As in the base class, with ``MODEL.DEVICE`` resolved."""
        cfg = load_config(config_file, overrides)
        cfg.MODEL.DEVICE = str(device_of(cfg))
        return cfg

    def finished(self, cfg) -> bool:
        """As in the base class. A model whose results are of an earlier version is evaluated again."""
        return super().finished(cfg) and "balanced_accuracy" in self.results()


class EvaluationRun(runs.EvaluationRun, ClassifierRun):
    """An evaluation of the model of :attr:`after`."""
