"""A training step: autocast, accumulated gradients, and no update from what is not finite."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import time
from typing import Any

import torch
from detectron2.engine import SimpleTrainer
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from ..utils.errors import DivergedError
from ..utils.random_state import current_states
from ..utils.text import one_line
from .diagnostics import save_diagnostics
from .processes.watchdog import note

logger = logging.getLogger(__name__)

AUTOCAST = {"float16": torch.float16, "bfloat16": torch.bfloat16}


class StepTrainer(SimpleTrainer):
    """
    Detectron2's ``SimpleTrainer`` and ``AMPTrainer`` in one, to the same bit, with four things more.

    * An update can be made from several batches, one after the other: the gradient is their mean.
    * Losses or gradients that are not finite on any process change nothing: the update is skipped by all, counted and
      logged with the images. Batch statistics are put back. With too many in a row, the run stops.
    * Running statistics of batch normalisation are the mean over processes, so that every process evaluates, and
      rank 0 saves, the same model. Without this, each keeps its own, of its own images.
    * Metrics reach the CPU in one copy, and rank 0 as numbers instead of pickled objects.

    Args:
        model: takes a batch and returns a dict of scalar losses; perhaps in ``DistributedDataParallel``.
        data_loader: an iterable of batches.
        optimizer: of the model.
        accumulate: batches of an update.
        autocast: half precision for the forward pass, or None. float16 has its losses scaled.
        max_skipped: updates in a row that may be skipped.
        clip_norm: what the gradient of the whole model is scaled down to where its norm is larger; None: never.
        folder: where a batch that ends the run is saved, for :mod:`balanced_lvis.engine.diagnostics`.
    """

    def __init__(
        self, model, data_loader, optimizer, *, accumulate: int = 1, autocast: torch.dtype | None = None,
        max_skipped: int = 10, clip_norm: float | None = None, folder: str | os.PathLike = ".",
    ):  # fmt: skip
        super().__init__(model, data_loader, optimizer)
        self.accumulate = accumulate
        self.autocast = autocast
        self.max_skipped = max_skipped
        self.clip_norm = clip_norm
        self.folder = folder
        self.skipped = self.skipped_in_row = self.overflows = 0
        self._is_first = True
        self._parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self._scaler = self._make_scaler()
        self._statistics = _BatchStatistics(model)

    def _make_scaler(self):
        """float16's least positive number is 6e-8: gradients are computed of a larger loss."""
        if self.autocast != torch.float16:
            return None
        scaler = torch.amp.GradScaler("cuda")
        # A scaler has no scale until it has scaled something, and can't be updated before. Without this, an error in
        # the first step of a run, which is skipped before its losses are scaled, would end the run.
        scaler.scale(torch.zeros((), device=self._parameters[0].device))
        return scaler

    @property
    def bare_model(self):
        """The model without its ``DistributedDataParallel``."""
        return self.model.module if isinstance(self.model, DistributedDataParallel) else self.model

    def run_step(self):
        """
        One update.

        Raises:
            DivergedError: if more than ``max_skipped`` updates in a row had to be skipped.
        """
        assert self.model.training, "the model was changed to evaluation mode"
        start = time.perf_counter()
        note(f"loading the images of iteration {self.iter}", slow=self._is_first)
        batches = [self.on_device(next(self._data_loader_iter)) for _ in range(self.accumulate)]
        data_time = time.perf_counter() - start
        note(f"computing iteration {self.iter}", slow=self._is_first)  # kernels may be chosen or compiled first
        self._is_first = False
        # What a step starts from is needed where it may be the last: to repeat it.
        states = current_states() if self.skipped_in_row >= self.max_skipped else None
        self._statistics.remember()
        self.optimizer.zero_grad()
        try:
            losses = self._backward(batches)
        except _NotFiniteError as error:
            self._skip(batches, error.losses, states)
            return
        self.after_backward()
        norm = self._gradient_norm()
        numbers = _on_all_ranks([*losses.values(), norm], data_time)
        if numbers[:, 1:].isfinite().all() or self._is_overflow(numbers):
            self.skipped_in_row = 0
            self._update(norm)
            self._statistics.average()
        else:
            self._skip(
                batches, dict(zip([*losses, "gradient norm"], numbers[comm.get_rank(), 1:].tolist())), states or {}
            )
        self._write_numbers(list(losses), numbers)

    def losses(self, batch: list[dict]) -> dict[str, Tensor]:
        """The losses of one batch, scalars by name."""
        with torch.autocast(self._device, dtype=self.autocast, enabled=self.autocast is not None):
            return self.model(batch)

    def on_device(self, batch: list[dict]) -> list[dict]:
        """
        The batch with its images on their way to the GPU. From pinned memory, they are copied while the host goes on;
        the model's own copy is waited for.
        """
        if self._device == "cpu":
            return batch
        device = self._parameters[0].device
        return [
            {**record, "image": record["image"].to(device, non_blocking=True)} if "image" in record else record
            for record in batch
        ]

    @property
    def _device(self) -> str:
        return self._parameters[0].device.type

    def _backward(self, batches: list) -> dict[str, Tensor]:
        """
        Add the mean gradient of ``batches`` to the parameters'; their mean losses.

        Raises:
            _NotFiniteError: if a process can't go on to the gradients, in all of them.
        """
        means: dict[str, Tensor] = {}
        for index, batch in enumerate(batches):
            with self._gradients_of_this_process(index + 1 < len(batches)):
                losses = self._usable_losses(batch)
                if len(batches) > 1:
                    losses = {name: loss / len(batches) for name, loss in losses.items()}
                total: Any = sum(losses.values())
                (total if self._scaler is None else self._scaler.scale(total)).backward()
            for name, loss in losses.items():
                means[name] = means[name] + loss.detach() if name in means else loss.detach()
        return means

    def _usable_losses(self, batch: list[dict]) -> dict[str, Tensor]:
        """Those that all processes can go on from: gradients that are exchanged would carry one's NaN to the others."""
        try:
            losses = self.losses(batch)
        except FloatingPointError:  # Detectron2's, of proposals that are not finite
            losses = {"proposals": torch.full((), math.nan, device=self._parameters[0].device)}
            if comm.get_world_size() == 1:
                raise _NotFiniteError(losses) from None
        if comm.get_world_size() > 1:
            note(f"exchanging losses of iteration {self.iter}", waiting=True)
            usable = torch.stack([loss.detach() for loss in losses.values()]).isfinite().all().float()
            torch.distributed.all_reduce(usable, torch.distributed.ReduceOp.MIN)
            if not usable:
                raise _NotFiniteError(losses)
            note(f"exchanging gradients of iteration {self.iter}", waiting=True)
        return losses

    def _gradients_of_this_process(self, wanted: bool):
        """Where more batches are to come, processes need not exchange gradients yet."""
        together = isinstance(self.model, DistributedDataParallel)
        return self.model.no_sync() if wanted and together else contextlib.nullcontext()

    def _gradient_norm(self) -> Tensor:
        """Over all parameters, of the gradient itself, not of the scaled one."""
        if self._scaler is not None:
            self._scaler.unscale_(self.optimizer)
        gradients = self._gradients()
        if not gradients:
            return torch.zeros((), device=self._parameters[0].device)
        return torch.stack(torch._foreach_norm(gradients)).norm()

    def _gradients(self) -> list[Tensor]:
        return [parameter.grad for parameter in self._parameters if parameter.grad is not None]

    def _is_overflow(self, numbers: Tensor) -> bool:
        """Whether the losses were scaled too much for float16, which the scaler makes good: it tries half the scale."""
        if self._scaler is None or not numbers[:, 1:-1].isfinite().all() or self._scaler.get_scale() <= 1:
            return False
        self.overflows += 1
        return True

    def _update(self, norm: Tensor) -> None:
        """One step of the optimizer, which the scaler leaves out where the gradient is not finite."""
        if self.clip_norm is not None:
            # Without asking how large the norm is, for which a GPU would have to be waited for.
            factor = (self.clip_norm / (norm + 1e-6)).clamp(max=1.0)
            torch._foreach_mul_(self._gradients(), factor)
        if self._scaler is None:
            self.optimizer.step()
            return
        self._scaler.step(self.optimizer)
        self._scaler.update()

    def _skip(self, batches: list, losses: dict[str, float], states: Any) -> None:
        """Leave everything as it was before the step."""
        self.optimizer.zero_grad()
        if self._scaler is not None:
            self._scaler.update(self._scaler.get_scale())  # the scale is not to blame; the next step unscales anew
        self._statistics.restore()
        self.skipped += 1
        self.skipped_in_row += 1
        bad = [name for name, value in losses.items() if not math.isfinite(value)]
        images = [record.get("file_name", record.get("image_id")) for batch in batches for record in batch]
        found = [(rank, *one) for rank, one in enumerate(comm.all_gather((bad, images))) if one[0]]
        told = "; ".join(f"{', '.join(names)} on {', '.join(map(one_line, images))}" for _, names, images in found)
        logger.warning(
            "Iteration %d is skipped, %d in a row and %d in all so far: not finite are %s.",
            self.iter, self.skipped_in_row, self.skipped, told,
        )  # fmt: skip
        if self.skipped_in_row <= self.max_skipped:
            return
        # The message may be shown by a process that has saved nothing: it names a file of one that has.
        own, path = (
            os.path.join(self.folder, f"iteration_{self.iter:07d}_rank{rank}.pth")
            for rank in (comm.get_rank(), found[0][0])
        )
        if bad:
            save_diagnostics(own, self.bare_model, batches, states, iteration=self.iter, losses=losses)
        comm.synchronize()
        raise DivergedError(
            f"SOLVER.MAX_SKIPPED_STEPS: more than {self.max_skipped} updates in a row had losses or gradients that are "
            f"not finite, the last at iteration {self.iter}: {told}. The batch and the weights are in {self.folder}; "
            f"tools/replay_step.py {path} repeats the step. A lower SOLVER.BASE_LR, a longer SOLVER.WARMUP_ITERS or "
            "SOLVER.CLIP_GRADIENTS may help; --resume goes on from the last checkpoint."
        ) from None

    def _write_numbers(self, names: list[str], numbers: Tensor) -> None:
        """As Detectron2 writes metrics: means over processes, and the longest wait for data."""
        storage = get_event_storage()
        storage.put_scalar("rank_data_time", float(numbers[comm.get_rank(), 0]))
        if not comm.is_main_process():
            return
        storage.put_scalar("data_time", float(numbers[:, 0].max()))
        if self.skipped:
            storage.put_scalar("skipped_steps", self.skipped)
        if self.overflows:
            storage.put_scalar("grad_scaler_overflows", self.overflows)
        losses = dict(zip(names, numbers[:, 1:-1].mean(0).tolist()))
        if all(map(math.isfinite, losses.values())):
            storage.put_scalar("total_loss", sum(losses.values()))
            if len(losses) > 1:
                storage.put_scalars(**losses)

    def state_dict(self):
        state = {**super().state_dict(), "skipped_steps": self.skipped}
        return state if self._scaler is None else {**state, "grad_scaler": self._scaler.state_dict()}

    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict)
        self.skipped = state_dict.get("skipped_steps", 0)
        if self._scaler is not None and "grad_scaler" in state_dict:
            self._scaler.load_state_dict(state_dict["grad_scaler"])


def _on_all_ranks(scalars: list[Tensor], data_time: float) -> Tensor:
    """(W, 1 + n) float64 on the CPU, a row per process: seconds waited for data, and the n ``scalars``."""
    own = torch.stack([scalar.detach().double().reshape(()) for scalar in scalars])
    own = torch.cat([own.new_full((1,), data_time), own])  # filled by the device, without a copy from the host
    if comm.get_world_size() == 1:
        return own[None].cpu()
    rows = [torch.empty_like(own) for _ in range(comm.get_world_size())]
    torch.distributed.all_gather(rows, own)
    return torch.stack(rows).cpu()


class _NotFiniteError(Exception):
    """Losses that have no usable gradient."""

    def __init__(self, losses: dict[str, Tensor]):
        super().__init__()
        self.losses = {name: float(loss.detach()) for name, loss in losses.items()}


class _BatchStatistics:
    """The running statistics of a model's batch normalisation, which a forward pass changes for good."""

    def __init__(self, model):
        norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
        self._buffers = [buffer for norm in norms for buffer in norm.buffers(recurse=False)]
        self._saved: list[Tensor] = []

    @torch.no_grad()
    def remember(self) -> None:
        self._saved = [buffer.clone() for buffer in self._buffers]

    @torch.no_grad()
    def average(self) -> None:
        """
        Over processes. A running mean is linear in what it is made from: this after every step is, but for rounding,
        what it would be at the end, and no checkpoint or evaluation needs to ask for it.
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
    def restore(self) -> None:
        for buffer, saved in zip(self._buffers, self._saved):
            buffer.copy_(saved)
