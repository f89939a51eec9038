"""An exponential moving average of the weights, kept beside those that train."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import Tensor, nn

from ..utils.errors import InputError
from ..utils.io import replacing
from ..utils.storage import check_present

logger = logging.getLogger(__name__)

FOLDER = "ema"  # in OUTPUT_DIR


def check_ema(cfg) -> None:
    """
    Raises:
        InputError: if ``MODEL.EMA.DECAY`` is no decay.
    """
    if not 0 <= cfg.MODEL.EMA.DECAY < 1:
        raise InputError(f"MODEL.EMA.DECAY is {cfg.MODEL.EMA.DECAY}; it must be at least 0 and less than 1.")


class WeightAverage:
    """
    The average a of weights w: after each update, a becomes d a + (1 - d) w with d = min(decay, (1 + n) / (10 + n)).

    n is the number of updates so far: early on, when weights change fast, little of the beginning is kept. Running
    statistics are averaged alike; what is not a floating-point number is taken over.

    Args:
        decay: in [0, 1); 0.999 remembers about the last thousand updates.
    """

    KEY = "ema"  # in checkpoints

    def __init__(self, decay: float):
        self.decay = decay
        self.updates = 0
        self.weights: dict[str, Tensor] | None = None
        self._pairs: dict[bool, list[tuple[Tensor, Tensor]]] = {}  # is floating-point -> (average, the model's own)

    def start(self, model: nn.Module) -> None:
        """Take the model's weights as the average, unless there is one that a checkpoint has brought along."""
        own = model.state_dict()
        if self.weights is None:
            self.weights = {name: tensor.detach().clone() for name, tensor in own.items()}
        else:
            self.weights = {name: tensor.to(own[name].device) for name, tensor in self.weights.items()}
        # Collected once: state_dict() visits every module, which takes longer than an update does on a GPU.
        self._pairs = {True: [], False: []}
        for name, tensor in own.items():
            self._pairs[tensor.is_floating_point()].append((self.weights[name], tensor))

    @torch.no_grad()
    def update(self) -> None:
        """Add the present weights of the model that :meth:`start` was called with to the average."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        averages, own = zip(*self._pairs[True])
        torch._foreach_mul_(averages, decay)
        torch._foreach_add_(averages, own, alpha=1 - decay)
        for average, value in self._pairs[False]:
            average.copy_(value)
        self.updates += 1

    @contextlib.contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Within the context, the model has the averaged weights."""
        assert self.weights is not None  # there from the first iteration on
        own = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        model.load_state_dict(self.weights)
        try:
            yield
        finally:
            model.load_state_dict(own)

    def state_dict(self) -> dict:
        return {"updates": self.updates, "weights": self.weights}

    def load_state_dict(self, state: dict) -> None:
        """Go on from what :meth:`state_dict` gave; the decay stays the configured one."""
        self.updates, self.weights = state["updates"], state["weights"]


class AverageHook(HookBase):
    """
    Averages the weights after every update that is made; after the last, writes them as a checkpoint of their own.

    It has to come before the hook that saves. ``OUTPUT_DIR/ema/model_final.pth`` has the averaged weights where any
    checkpoint has its model, and so is evaluated, converted or trained on as any other.

    Args:
        average: to keep.
        folder: ``OUTPUT_DIR``.
    """

    def __init__(self, average: WeightAverage, folder: str | os.PathLike):
        self.average = average
        self.folder = folder

    def before_train(self):
        self.average.start(self.trainer.checkpointer.model)

    def after_step(self):
        if not self.trainer._trainer.skipped_in_row:
            self.average.update()
        if self.trainer.iter + 1 >= self.trainer.max_iter and comm.is_main_process():
            self._save()

    def _save(self) -> None:
        identity = self.trainer.identity
        content = {
            "model": self.average.weights,
            identity.KEY: identity.state_dict(),
            "iteration": self.trainer.iter,
        }
        check_present(self.folder)
        path = os.path.join(self.folder, FOLDER, "model_final.pth")
        with replacing(path, "wb") as file:
            torch.save(content, file)
        logger.info("Averaged weights saved to %s", path)
