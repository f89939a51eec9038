"""State that follows the updates of a training step: kept with accepted updates, restored after skipped ones."""

from __future__ import annotations

from typing import Protocol

import torch
from detectron2.utils import comm
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm


class StepState(Protocol):
    """State besides parameters: kept after an accepted update, restored after a skipped one."""

    def begin(self) -> None:
        """Called before the forward passes of an update."""

    def accept(self) -> None:
        """Called after an update was made."""

    def discard(self) -> None:
        """Called when an update was skipped: restores the state from before the step."""


class BatchStatistics:
    """
    The running statistics of batch normalization, which every forward pass changes.

    Args:
        model: whose batch statistics are kept or restored.
    """

    def __init__(self, model):
        norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
        self._buffers = [buffer for norm in norms for buffer in norm.buffers(recurse=False)]
        self._saved: list[Tensor] = []

    @torch.no_grad()
    def begin(self) -> None:
        """Remember the statistics."""
        self._saved = [buffer.clone() for buffer in self._buffers]

    @torch.no_grad()
    def accept(self) -> None:
        """
        Average the statistics over processes.

        A running mean is linear in its inputs: averaging after every step gives, up to rounding, the same as averaging
        at the end, and checkpoints and evaluations need no exchange.
        """
        buffers = [buffer for buffer in self._buffers if buffer.is_floating_point()]
        if comm.get_world_size() == 1 or not buffers:
            return
        together = torch.cat([buffer.reshape(-1) for buffer in buffers])
        torch.distributed.all_reduce(together)
        together /= comm.get_world_size()
        for buffer, mean in zip(buffers, together.split([buffer.numel() for buffer in buffers])):
            buffer.copy_(mean.view_as(buffer))

    @torch.no_grad()
    def discard(self) -> None:
        """Restore the remembered statistics."""
        for buffer, saved in zip(self._buffers, self._saved):
            buffer.copy_(saved)
