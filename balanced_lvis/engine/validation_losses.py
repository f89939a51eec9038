"""The losses of training, on images of the validation set."""

from __future__ import annotations

import contextlib
import logging
import math
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torchvision.ops import StochasticDepth

from ..data.dataset_records import choose_records
from ..data.loader import build_loss_loader
from ..modeling.decoupled import is_second_stage
from ..utils.random_state import RandomState, seed_of
from .processes.watchdog import note
from .step import TrainingStep

logger = logging.getLogger(__name__)

_SEED = 0  # of random numbers in the losses, such as the choice of RoIs: the same in every evaluation and run


class ValidationLosses:
    """
    Mean losses on ``TEST.LOSS_IMAGES`` images of each dataset in ``DATASETS.TEST``.

    They are the losses of the training step, with its RoI sampling and its loss, on a fixed choice of images without
    augmentation. Batch normalization uses its running statistics. Neither the model nor the state of its activations
    nor random generators change: training is bit-identical with and without.

    All processes must call it; each computes the losses of its share of the images.

    Args:
        cfg: the config.
        step: the training step.
    """

    def __init__(self, cfg, step: TrainingStep):
        self._cfg = cfg
        self._step = step
        self._records: dict[str, list[dict]] = {}

    def __call__(self) -> dict[str, float]:
        """
        Returns:
            {"validation/loss_cls": mean over the images, ...} with their sum, "validation/total_loss", on rank 0; empty
            on other ranks. With several datasets, names begin with that of the dataset. All are NaN if a batch of any
            process has proposals that are not finite.
        """
        found: dict[str, float] = {}
        names = self._cfg.DATASETS.TEST
        for name in names:
            losses = self._losses_on(name)
            prefix = f"{name}/validation" if len(names) > 1 else "validation"
            found.update({f"{prefix}/{key}": value for key, value in losses.items()})
        return found

    def _losses_on(self, name: str) -> dict[str, float]:
        if name not in self._records:
            self._records[name] = choose_records(name, self._cfg.TEST.LOSS_IMAGES)
        sums: defaultdict[str, float] = defaultdict(float)
        errors: list[str] = []
        with RandomState(seed_of(_SEED, comm.get_rank())), computing_losses(self._step.bare_model):
            masks = not is_second_stage(self._cfg)
            for batch in build_loss_loader(self._cfg, name, self._records[name], masks):
                note("computing validation losses", slow=True)
                try:
                    losses = self._step.validation_losses(self._step.on_device(batch))
                except FloatingPointError as error:  # of Detectron2, for proposals that are not finite
                    errors.append(str(error))
                    continue
                for key, value in losses.items():
                    sums[key] += float(value) * len(batch)
        every = comm.all_gather((sums, errors))
        if not comm.is_main_process():
            return {}
        if errors := [error for _, others in every for error in others]:
            logger.warning("Validation losses on %s are NaN: %d batches failed: %s", name, len(errors), errors[0])
        return _mean([one for one, _ in every], math.nan if errors else len(self._records[name]))


def _mean(sums: list[dict[str, float]], count: float) -> dict[str, float]:
    """Mean losses and their sum, from the sums of all processes."""
    total: defaultdict[str, float] = defaultdict(float)
    for one in sums:
        for key, value in one.items():
            total[key] += value
    means = {key: value / count for key, value in total.items()}
    return {**means, "total_loss": sum(means.values()) if means else math.nan}


@contextlib.contextmanager
def computing_losses(model: nn.Module) -> Iterator[None]:
    """
    Context in which a model computes losses without changing its state.

    It is in training mode, except for batch normalization, dropout and drop path (of torchvision, or with the attribute
    ``drop_prob`` of timm). There are no gradients, metrics that the model logs are discarded, and it draws no images
    (``VIS_PERIOD``).

    Args:
        model: without ``DistributedDataParallel``.
    """
    modules: list[Any] = list(model.modules())  # with attributes that nn.Module does not declare
    modes = [(module, module.training) for module in modules]
    periods = [(module, module.vis_period) for module in modules if hasattr(module, "vis_period")]
    model.train()
    for module in modules:
        if isinstance(module, (_BatchNorm, _DropoutNd, StochasticDepth)) or hasattr(module, "drop_prob"):
            module.training = False
    for module, _ in periods:
        module.vis_period = 0
    try:
        with torch.no_grad(), EventStorage():
            yield
    finally:
        for module, mode in modes:
            module.training = mode
        for module, period in periods:
            module.vis_period = period
