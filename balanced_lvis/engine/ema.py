"""Exponential moving average (EMA) of the weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ..activations import state_keys
from ..utils.errors import InputError


def check_ema(cfg) -> None:
    """
    Raises:
        InputError: if ``MODEL.EMA.DECAY`` is not in [0, 1).
    """
    if not 0 <= cfg.MODEL.EMA.DECAY < 1:
        raise InputError(f"MODEL.EMA.DECAY is {cfg.MODEL.EMA.DECAY}; it must be at least 0 and less than 1.")


class WeightAverage:
    """
    The average a of weights w: after each update, a becomes d a + (1 - d) w with d = min(decay, (1 + n) / (10 + n)).

    n is the number of updates so far: early on, when weights change fast, the average forgets quickly. Running
    statistics are averaged like weights; integer buffers and the state of activations are copied.

    Args:
        decay: in [0, 1); 0.999 averages over about the last 1,000 updates.
    """

    KEY = "ema"  # in checkpoints

    def __init__(self, decay: float):
        self.decay = decay
        self.updates = 0
        self.weights: dict[str, Tensor] | None = None
        self._pairs: dict[bool, list[tuple[Tensor, Tensor]]] = {}  # is averaged -> (average, model's tensor)

    def start(self, model: nn.Module) -> None:
        """
        Start from the model's weights, or continue with the average that was loaded from a checkpoint.

        State that the checkpoint doesn't have, because its activation had none, is that of the model.
        """
        own = model.state_dict()
        loaded = self.weights or {}
        self.weights = {
            name: loaded[name].to(tensor.device) if name in loaded else tensor.detach().clone()
            for name, tensor in own.items()
        }
        # Collected once: state_dict() visits every module, which takes longer than an update does on a GPU.
        self._pairs = {True: [], False: []}
        state = set(state_keys(model))  # of activations: counts, say, whose average means nothing
        for name, tensor in own.items():
            averaged = tensor.is_floating_point() and name not in state
            self._pairs[averaged].append((self.weights[name], tensor))

    @torch.no_grad()
    def update(self) -> None:
        """Add the current weights of the model that was passed to :meth:`start`."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        averages, own = zip(*self._pairs[True])
        torch._foreach_mul_(averages, decay)
        torch._foreach_add_(averages, own, alpha=1 - decay)
        for average, value in self._pairs[False]:
            average.copy_(value)
        self.updates += 1

    @contextlib.contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Context in which the model has the averaged weights."""
        assert self.weights is not None, "start() was not called"
        own = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        model.load_state_dict(self.weights)
        try:
            yield
        finally:
            model.load_state_dict(own)

    def state_dict(self) -> dict:
        return {"updates": self.updates, "weights": self.weights}

    def load_state_dict(self, state: dict) -> None:
        """Restore what :meth:`state_dict` returned; the decay stays the configured one."""
        self.updates, self.weights = state["updates"], state["weights"]
