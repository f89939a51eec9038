"""Updates of the state of activations: once per accepted update, synchronized across processes."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .base import Activation


def stateful_activations(model: nn.Module) -> Iterator[tuple[str, Activation]]:
    """The activations in a model that have state, by module name."""
    for name, module in model.named_modules():
        if isinstance(module, Activation) and module.states:
            yield name, module


def state_keys(model: nn.Module) -> list[str]:
    """Names of the activations' state in ``model.state_dict()``."""
    return [f"{name}.{state}" if name else state for name, part in stateful_activations(model) for state in part.states]


class StateUpdates:
    """
    Updates the state of a model's activations from the batches of each accepted update.

    From :meth:`begin` on, activations record the batches of an update. :meth:`accept` is called in all processes when
    the optimizer has made its step, :meth:`discard` when the update is skipped. Between updates nothing is recorded,
    as precise batch statistics are also computed in training mode. A model without state costs nothing.

    Args:
        model: in every process the same one.
    """

    def __init__(self, model: nn.Module):
        self._activations = [activation for _, activation in stateful_activations(model)]

    def begin(self) -> None:
        """Start to record the batches of an update."""
        for activation in self._activations:
            activation._recorded = []

    @torch.no_grad()
    def accept(self) -> None:
        """Let each activation observe what it has recorded, then combine the changes of all processes."""
        for activation in self._activations:
            before = {name: getattr(activation, name).clone() for name in activation.states}
            if activation._recorded:
                logits, gt_classes = (torch.cat(parts) for parts in zip(*activation._recorded))
                activation.observe(logits, gt_classes)
            for name, reduce in activation.states.items():
                _combine(getattr(activation, name), before[name], reduce)
        self.discard()

    def discard(self) -> None:
        """Forget the recorded batches, as after a skipped update, and record none until the next :meth:`begin`."""
        for activation in self._activations:
            activation._recorded = None


def _combine(state: Tensor, before: Tensor, reduce: str) -> None:
    """Replace this process's change of ``state``, in place, by that of all processes."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return
    change = state - before
    dist.all_reduce(change)
    if reduce == "mean":
        change = (change / dist.get_world_size()).to(state.dtype)
    state.copy_(before + change)
