"""Selects the training step of a config: plain, or bilevel."""

from __future__ import annotations

from .bilevel_step import BilevelStep
from .step import TrainingStep


def step_class(cfg) -> type[TrainingStep]:
    """The class of the step that a config describes."""
    return BilevelStep if cfg.SOLVER.META.ENABLED else TrainingStep


def build_step(cfg, model, data_loader, optimizer) -> TrainingStep:
    """
    Build the step that a config describes.

    Args:
        cfg: the config.
        model: may be wrapped in ``DistributedDataParallel``.
        data_loader: from :meth:`balanced_lvis.engine.trainer.Trainer.build_train_loader`.
        optimizer: the model's optimizer.
    """
    return step_class(cfg).from_config(cfg, model, data_loader, optimizer)
