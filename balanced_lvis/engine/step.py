"""A training step: mixed precision, gradient accumulation, and skipping of updates that are not finite."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from ..activations import StateUpdates
from ..utils.errors import DivergedError, InputError
from ..utils.random_state import current_states
from ..utils.run_files import DIAGNOSTICS
from ..utils.text import one_line
from .diagnostics import save_diagnostics
from .optimizer import clip_norm
from .precision import AUTOCAST, autocast, autocast_dtype
from .processes.watchdog import note
from .step_state import BatchStatistics, StepState

logger = logging.getLogger(__name__)


class TrainingStep:
    """
    One update of the model per call of :meth:`run_step`.

    It has the interface of Detectron2's ``SimpleTrainer`` (``iter``, ``run_step``, ``state_dict``), and computes the
    same numbers as its ``SimpleTrainer`` and ``AMPTrainer``, bit for bit. In addition:

    * Gradients can be accumulated over several batches: the update uses their mean.
    * If losses or gradients are not finite on any process, all processes skip the update, and the images are logged.
      Batch statistics are restored. Training stops after too many skipped updates in a row.
    * Running statistics of batch normalization are averaged over processes, so that all processes evaluate the same
      model that rank 0 saves. Otherwise, each process would keep the statistics of its own images.
    * Metrics are copied to the CPU once, and exchanged as tensors instead of pickled objects.

    Args:
        model: takes a batch and returns a dict of scalar losses; may be wrapped in ``DistributedDataParallel``.
        data_loader: an iterable of batches.
        optimizer: the model's optimizer.
        accumulate: number of batches per update.
        autocast: dtype of the forward pass, or None for float32. Losses are scaled for float16.
        max_skipped: number of consecutive updates that may be skipped.
        clip_norm: maximum norm of the gradient of the whole model; None for no clipping.
        folder: where the batch that ends a run is saved, for :mod:`balanced_lvis.engine.diagnostics`.
        states: further state that follows accepted and skipped updates.

    Attributes:
        iter: number of the current iteration, set by the trainer.
        skipped: number of skipped updates.
        skipped_in_row: number of skipped updates since the last accepted one.
        accepted: whether the last step updated the parameters.
        overflows: number of updates whose loss scale was too large for float16.
    """

    # What is trained in addition to the model's parameters, for messages that describe a checkpoint.
    also_trains = ""
    # Whether losses are scaled for float16.
    scales_losses = True

    def __init__(
        self, model, data_loader, optimizer, *, accumulate: int = 1, autocast: torch.dtype | None = None,
        max_skipped: int = 10, clip_norm: float | None = None, folder: str | os.PathLike = ".",
        states: Sequence[StepState] = (),
    ):  # fmt: skip
        model.train()
        self.model = model
        self.data_loader = data_loader
        self.optimizer = optimizer
        self.accumulate = accumulate
        self.autocast = autocast
        self.max_skipped = max_skipped
        self.clip_norm = clip_norm
        self.folder = folder
        self.states = list(states)
        self.iter = 0
        self.skipped = self.skipped_in_row = self.overflows = 0
        self.accepted = False
        self._is_first = True
        self._batches = BatchIterator(data_loader)
        self._parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self._scaler = self._make_scaler()
        self._statistics = BatchStatistics(model)

    @classmethod
    def from_config(cls, cfg, model, data_loader, optimizer) -> TrainingStep:
        """Build the step that a config describes; arguments as for the constructor."""
        return cls(model, data_loader, optimizer, **cls.options_from_config(cfg, model))

    @classmethod
    def options_from_config(cls, cfg, model) -> dict:
        """Keyword arguments of the constructor."""
        return {
            "accumulate": cfg.SOLVER.ACCUMULATE_BATCHES,
            "autocast": autocast_dtype(cfg),
            "max_skipped": cfg.SOLVER.MAX_SKIPPED_STEPS,
            "clip_norm": clip_norm(cfg.SOLVER),
            "folder": os.path.join(cfg.OUTPUT_DIR, DIAGNOSTICS),
            "states": [StateUpdates(without_ddp(model))],
        }

    @classmethod
    def check(cls, cfg, world_size: int) -> None:
        """
        Check the settings of a step, in a config whose numbers are in their ranges.

        Raises:
            InputError: if batches can't be split as configured, or the precision is invalid.
        """
        solver = cfg.SOLVER
        parts = solver.ACCUMULATE_BATCHES
        if parts > 1 and solver.IMS_PER_BATCH % (parts * world_size):
            raise InputError(
                f"SOLVER.IMS_PER_BATCH is {solver.IMS_PER_BATCH}, which can't be split into "
                f"SOLVER.ACCUMULATE_BATCHES {parts} batches for {world_size} process(es); set it to a multiple of "
                f"{parts * world_size}."
            )
        if solver.AMP.DTYPE not in AUTOCAST:
            raise InputError(f"SOLVER.AMP.DTYPE is {solver.AMP.DTYPE!r}; valid: {', '.join(AUTOCAST)}.")
        is_float16 = solver.AMP.ENABLED and solver.AMP.DTYPE == "float16"
        if is_float16 and cls.scales_losses and cfg.MODEL.DEVICE == "cpu":
            raise InputError("SOLVER.AMP.DTYPE is 'float16', which needs a GPU; use bfloat16 on the CPU.")
        check_shared_evenly("SOLVER.IMS_PER_BATCH", solver.IMS_PER_BATCH, world_size)

    @classmethod
    def class_balanced_images(cls, cfg) -> int:
        """Images per iteration of the class-balanced batches that the step needs in addition; 0 if it needs none."""
        return 0

    def _make_scaler(self):
        """The scaler of losses: the smallest positive number of float16, 6e-8, is larger than many gradients."""
        if self.autocast != torch.float16 or not self.scales_losses:
            return None
        scaler = torch.amp.GradScaler("cuda")
        # A scaler has no scale until it has scaled something, and can't be updated before. Without this, an error in
        # the first step of a run, which is skipped before its losses are scaled, would end the run.
        scaler.scale(torch.zeros((), device=self._parameters[0].device))
        return scaler

    @property
    def bare_model(self):
        """The model without its ``DistributedDataParallel``."""
        return without_ddp(self.model)

    def run_step(self):
        """
        Make one update, or skip it.

        Raises:
            DivergedError: if more than ``max_skipped`` updates in a row were skipped.
        """
        assert self.model.training, "the model was changed to evaluation mode"
        start = time.perf_counter()
        note(f"loading the images of iteration {self.iter}", slow=self._is_first)
        batches = [self.on_device(next(self._batches)) for _ in range(self.accumulate)]
        data_time = time.perf_counter() - start
        note(f"computing iteration {self.iter}", slow=self._is_first)  # kernels may be chosen or compiled first
        self._is_first = False
        self.accepted = False
        # The random states before the step are only saved, for a replay, if the step may end the run.
        states = current_states() if self.skipped_in_row >= self.max_skipped else None
        for state in (self._statistics, *self.states):
            state.begin()
        self.optimizer.zero_grad()
        try:
            losses = self._backward(batches)
        except _NotFiniteError as error:
            self._skip(batches, error.losses, states)
            return
        norm = self._gradient_norm()
        numbers = _on_all_ranks([*losses.values(), norm], data_time)
        if numbers[:, 1:].isfinite().all():
            self._accept(norm)
        elif self._is_overflow(numbers):
            self._retry_with_lower_scale(norm)
        else:
            self._skip(batches, dict(zip([*losses, "gradient norm"], numbers[comm.get_rank(), 1:].tolist())), states)
        self._write_numbers(list(losses), numbers)

    def losses(self, batch: list[dict]) -> dict[str, Tensor]:
        """The losses of one batch, scalars by name."""
        with autocast(self._device, self.autocast):
            return self.model(batch)

    def validation_losses(self, batch: list[dict]) -> dict[str, Tensor]:
        """
        As :meth:`losses`, of images that are not trained on. Nothing is updated.

        The model must be in the mode of :func:`balanced_lvis.engine.validation_losses.computing_losses`.
        """
        with autocast(self._device, self.autocast):
            return self.bare_model(batch)

    def on_device(self, batch: list[dict]) -> list[dict]:
        """
        The batch with its images on the model's device.

        Copies from pinned memory don't block the host. The model's own copy would.
        """
        if self._device == "cpu":
            return batch
        device = self._parameters[0].device
        return [
            {**record, "image": record["image"].to(device, non_blocking=True)} if "image" in record else record
            for record in batch
        ]

    def close(self) -> None:
        """Release the iterators of the data loaders, which ends their workers."""
        self._batches.close()

    def save_results(self, folder: str | os.PathLike) -> None:
        """Write what was learned besides the model to ``folder``, at the end of training; nothing by default."""

    @property
    def _device(self) -> str:
        return self._parameters[0].device.type

    def _backward(self, batches: list) -> dict[str, Tensor]:
        """
        Add the mean gradient of ``batches`` to the parameters' gradients, and return their mean losses.

        Raises:
            _NotFiniteError: on all processes, if the losses of one are not finite.
        """
        means: dict[str, Tensor] = {}
        for index, batch in enumerate(batches):
            with self._exchanging_gradients(index + 1 == len(batches)):
                losses = self._usable_losses(batch)
                if len(batches) > 1:
                    losses = {name: loss / len(batches) for name, loss in losses.items()}
                total: Any = sum(losses.values())
                (total if self._scaler is None else self._scaler.scale(total)).backward()
            for name, loss in losses.items():
                means[name] = means[name] + loss.detach() if name in means else loss.detach()
        return means

    def _usable_losses(self, batch: list[dict]) -> dict[str, Tensor]:
        """Losses that are finite on all processes: the exchange of gradients would spread the NaN of one to all."""
        try:
            losses = self.losses(batch)
        except FloatingPointError:  # Detectron2 raises it for proposals that are not finite
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

    def _exchanging_gradients(self, wanted: bool):
        """Gradients are exchanged with the last batch of an update only."""
        if wanted or not isinstance(self.model, DistributedDataParallel):
            return contextlib.nullcontext()
        return self.model.no_sync()

    def _gradient_norm(self) -> Tensor:
        """The norm of the unscaled gradient over all parameters."""
        if self._scaler is not None:
            self._scaler.unscale_(self.optimizer)
        gradients = self._gradients()
        if not gradients:
            return torch.zeros((), device=self._parameters[0].device)
        return torch.stack(torch._foreach_norm(gradients)).norm()

    def _gradients(self) -> list[Tensor]:
        return [parameter.grad for parameter in self._parameters if parameter.grad is not None]

    def _is_overflow(self, numbers: Tensor) -> bool:
        """Whether the loss scale was too large for float16: losses are finite, and a lower scale can be tried."""
        return (
            self._scaler is not None and bool(numbers[:, 1:-1].isfinite().all()) and self._scaler.get_scale() > 1
        )  # fmt: skip

    def _accept(self, norm: Tensor) -> None:
        """Update the parameters, and accept all state of the step. Called once per accepted update."""
        self.skipped_in_row = 0
        self.accepted = True
        self._update(norm)
        for state in (self._statistics, *self.states):
            state.accept()

    def _retry_with_lower_scale(self, norm: Tensor) -> None:
        """The scaler leaves out the update and halves its scale, as in Detectron2; the next step tries again."""
        self.overflows += 1
        self.skipped_in_row = 0
        self._update(norm)
        self._statistics.accept()  # the forward pass was finite
        for state in self.states:
            state.discard()

    def _update(self, norm: Tensor) -> None:
        """One step of the optimizer; the scaler leaves it out if the gradient is not finite."""
        if self.clip_norm is not None:
            # Computed on the device: reading the norm would make the host wait for a GPU.
            factor = (self.clip_norm / (norm + 1e-6)).clamp(max=1.0)
            torch._foreach_mul_(self._gradients(), factor)
        if self._scaler is None:
            self.optimizer.step()
            return
        self._scaler.step(self.optimizer)
        self._scaler.update()

    def _skip(self, batches: list, losses: dict[str, float], states: Any) -> None:
        """Restore the state from before the step. Called after each skipped step."""
        self.optimizer.zero_grad()
        if self._scaler is not None:
            self._scaler.update(self._scaler.get_scale())  # keep the scale; allow the next step to unscale
        for state in (self._statistics, *self.states):
            state.discard()
        self.skipped += 1
        self.skipped_in_row += 1
        bad = [name for name, value in losses.items() if not math.isfinite(value)]
        images = [record.get("file_name", record.get("image_id")) for batch in batches for record in batch]
        found = [(rank, *one) for rank, one in enumerate(comm.all_gather((bad, images))) if one[0]]
        description = "; ".join(
            f"{', '.join(names)} on {', '.join(map(one_line, images))}" for _, names, images in found
        )
        logger.warning(
            "Iteration %d is skipped, %d in a row and %d in all so far. Not finite: %s.",
            self.iter, self.skipped_in_row, self.skipped, description,
        )  # fmt: skip
        if self.skipped_in_row <= self.max_skipped:
            return
        # The process that shows the message may have saved nothing: it names the file of a process that has.
        own, path = (
            os.path.join(self.folder, f"iteration_{self.iter:07d}_rank{rank}.pth")
            for rank in (comm.get_rank(), found[0][0])
        )
        if bad:
            save_diagnostics(own, self.bare_model, batches, states, iteration=self.iter, losses=losses)
        comm.synchronize()
        raise DivergedError(
            f"SOLVER.MAX_SKIPPED_STEPS: more than {self.max_skipped} updates in a row had losses or gradients that are "
            f"not finite, the last at iteration {self.iter}: {description}. The batch and the weights were saved in "
            f"{self.folder}; `balanced-lvis replay {path}` repeats the step. Try a lower SOLVER.BASE_LR, a longer "
            "SOLVER.WARMUP_ITERS or SOLVER.CLIP_GRADIENTS; --resume continues from the last checkpoint."
        ) from None

    def _write_numbers(self, names: list[str], numbers: Tensor) -> None:
        """Write metrics as Detectron2 does: means over processes, and the longest wait for data."""
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

    def state_dict(self) -> dict:
        """The state for a checkpoint; the keys are those of Detectron2's ``SimpleTrainer`` and ``AMPTrainer``."""
        state = {
            "iteration": self.iter, "optimizer": self.optimizer.state_dict(), "skipped_steps": self.skipped,
        }  # fmt: skip
        return state if self._scaler is None else {**state, "grad_scaler": self._scaler.state_dict()}

    def load_state_dict(self, state_dict: dict) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.iter = state_dict["iteration"]
        self.optimizer.load_state_dict(state_dict["optimizer"])
        self.skipped = state_dict.get("skipped_steps", 0)
        if self._scaler is not None and "grad_scaler" in state_dict:
            self._scaler.load_state_dict(state_dict["grad_scaler"])


class BatchIterator:
    """
    The batches of a data loader. Its iterator, and with it the workers, start with the first batch.

    Args:
        data_loader: an iterable of batches.
    """

    def __init__(self, data_loader: Iterable):
        self._data_loader = data_loader
        self._iterator: Iterator | None = None

    def __next__(self):
        if self._iterator is None:
            self._iterator = iter(self._data_loader)
        return next(self._iterator)

    def close(self) -> None:
        """Release the iterator, which ends its workers."""
        self._iterator = None


def without_ddp(model):
    """The model inside ``DistributedDataParallel``, or the model itself."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def check_shared_evenly(key: str, images: int, world_size: int) -> None:
    """
    Raises:
        InputError: if ``images``, the value of ``key``, is not a multiple of the number of processes.
    """
    if images % world_size:
        raise InputError(
            f"{key} is {images}, which {world_size} processes can't share evenly; set it to a multiple of {world_size}."
        )


def _on_all_ranks(scalars: list[Tensor], data_time: float) -> Tensor:
    """(W, 1 + n) float64 on the CPU, one row per process: seconds spent waiting for data, and the n ``scalars``."""
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
