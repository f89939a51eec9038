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

    def results(self) -> dict:
        """As in the base class. Earlier versions, whose test sets were taken to be balanced, wrote less."""
        results = super().results()
        if "balanced_accuracy" not in results:
            results |= {"balanced_accuracy": results["accuracy"], "test_counts": [1] * len(results["per_class"])}
        return results


class EvaluationRun(runs.EvaluationRun, ClassifierRun):
    """An evaluation of the model of :attr:`after`."""
