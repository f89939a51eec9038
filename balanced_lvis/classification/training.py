"""The training loop: resumable after any interruption, with the same result as without one."""

from __future__ import annotations

import logging
import math
import os

import torch

from ..console.preemption import StopRequest
from ..utils.errors import DivergedError, InputError, Preempted
from ..utils.random_state import current_states, seed_all, set_states
from ..utils.run_files import FINAL_WEIGHTS
from ..utils.storage import clear_errors
from ..utils.text import described
from .checkpoints import (
    CURRENT,
    check_same_data,
    check_same_run,
    described_data,
    load_model,
    newest_checkpoint,
    plain_values,
    read_checkpoint,
    save_checkpoint,
)  # fmt: skip
from .data.augmentation import build_transforms
from .data.batches import BatchLoader
from .data.image_set import ImageSet
from .metrics_file import Progress, add_metrics, keep_until
from .model import build_model
from .schedules import learning_rate
from .steps import ClassifierStep, MetaStep, Step

logger = logging.getLogger(__name__)

_INITIAL_WEIGHTS = 4  # key of a random stream, as in samplers.py


class Trainer:
    """
    Trains a model by a config and writes checkpoints and ``metrics.json`` to ``OUTPUT_DIR``.

    Args:
        cfg: config, from :func:`balanced_lvis.classification.load_config`.
        images: the training set.
        device: device to train on.

    Attributes:
        model: the model.

    Raises:
        InputError: if the config or the checkpoint in ``MODEL.WEIGHTS`` is invalid.
    """

    def __init__(self, cfg, images: ImageSet, device: torch.device):
        self.cfg, self.device, self._images = cfg, device, images
        seed_all(cfg.SEED, _INITIAL_WEIGHTS)
        self.model = build_model(cfg, images.num_classes, images.prior())
        self.model.activation.prepare()
        if cfg.MODEL.WEIGHTS:
            self._load_first_stage()
        self.model.to(device)
        transform = build_transforms(cfg.INPUT.TRANSFORMS, cfg.INPUT.PIXEL_MEAN)
        self.step = _step_class(cfg)(self.model, cfg, BatchLoader(images, transform, cfg.SEED), device)
        self.iteration = 0
        learning_rate(cfg, 0)  # an unknown schedule is an error before anything is written

    def _load_first_stage(self) -> None:
        cfg = self.cfg
        retrained = cfg.MODEL.DECOUPLED.ENABLED and cfg.MODEL.DECOUPLED.CLASSIFIER == "retrain"
        prefixes = ("network.",) if retrained else ("network.", "classifier.")
        load_model(self.model, read_checkpoint(cfg.MODEL.WEIGHTS), cfg.MODEL.WEIGHTS, prefixes)

    # ------------------------------------------------------------------ checkpoints

    def resume(self) -> bool:
        """
        Continue from the newest checkpoint in ``OUTPUT_DIR``, if there is one.

        Returns:
            whether there is one.

        Raises:
            InputError: if it is damaged or missing, or of another config or other data.
        """
        path = newest_checkpoint(self.cfg.OUTPUT_DIR)
        if path is None:
            return False
        content = read_checkpoint(path)
        check_same_run(content["config"], self.cfg, path)
        check_same_data(content, self._images, path)
        try:
            self.model.load_state_dict(content["model"])
            self.step.load_state_dict(content["step"])
            self.iteration = int(content["iteration"])
            set_states(content["random"])
        except torch.OutOfMemoryError:
            raise
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError) as error:
            raise InputError(
                f"{os.fspath(path)!r} can't be resumed from ({described(error)}); restore it, or train without "
                "--resume."
            ) from error
        logger.info("Resumed from %s at iteration %d", path, self.iteration)
        return True

    def save(self, name: str) -> None:
        """
        Write a checkpoint.

        Args:
            name: file name in ``OUTPUT_DIR``.
        """
        content = {
            "model": self.model.state_dict(),
            "step": self.step.state_dict(),
            "iteration": self.iteration,
            "random": current_states(),
            "config": plain_values(self.cfg),
            "data": described_data(self._images),
        }
        save_checkpoint(self.cfg.OUTPUT_DIR, name, content)

    # ------------------------------------------------------------------ training

    def train(self) -> None:
        """
        Train to the end and write ``model_final.pth``.

        Raises:
            DivergedError: if the loss is not finite.
            Preempted: after SIGTERM or SIGUSR1; a checkpoint has been written.
            StorageError: if ``OUTPUT_DIR`` can't be written to.
        """
        cfg, end = self.cfg, self.cfg.SOLVER.MAX_ITER
        if self.iteration >= end:
            self._remove_current()  # a kill between the two may have left it
            return
        with clear_errors(cfg.OUTPUT_DIR):
            keep_until(cfg.OUTPUT_DIR, self.iteration)
        self.step.start()
        with StopRequest() as stop, Progress(self.iteration, end) as progress:
            for batch in self.step.batches(self.iteration, end):
                loss = self.step(batch, learning_rate(cfg, self.iteration))
                self._log(loss, progress)
                self.iteration += 1
                if stop.is_wanted_anywhere() and self.iteration < end:
                    self._check_finite(loss, self.iteration - 1)
                    self.save(CURRENT)
                    logger.info("Stopped by %s; --resume continues from iteration %d", stop.signal_name, self.iteration)
                    raise Preempted
                if self.iteration % cfg.SOLVER.CHECKPOINT_PERIOD == 0 and self.iteration < end:
                    self._check_finite(loss, self.iteration - 1)  # such weights must not replace an earlier checkpoint
                    self.save(CURRENT)
        self.save(FINAL_WEIGHTS)
        self._remove_current()

    def _remove_current(self) -> None:
        with clear_errors(self.cfg.OUTPUT_DIR):
            _remove(os.path.join(self.cfg.OUTPUT_DIR, CURRENT))

    def _log(self, loss: torch.Tensor, progress: Progress) -> None:
        done, solver = self.iteration + 1, self.cfg.SOLVER
        if done % solver.LOG_PERIOD and done != solver.MAX_ITER:
            return
        value = self._check_finite(loss, self.iteration)
        lr = learning_rate(self.cfg, self.iteration)
        with clear_errors(self.cfg.OUTPUT_DIR):
            add_metrics(self.cfg.OUTPUT_DIR, {"iteration": self.iteration, "total_loss": value, "lr": lr})
        progress.show(done, value)

    def _check_finite(self, loss: torch.Tensor, iteration: int) -> float:
        """The loss of an iteration; DivergedError if it is not finite."""
        value, solver = float(loss), self.cfg.SOLVER
        if not math.isfinite(value):
            raise DivergedError(
                f"The loss is {value} at iteration {iteration}: training diverged. Lower SOLVER.BASE_LR "
                f"({solver.BASE_LR}), or raise SOLVER.WARMUP_ITERS ({solver.WARMUP_ITERS})."
            )
        return value


def _step_class(cfg) -> type[Step]:
    if not cfg.MODEL.DECOUPLED.ENABLED:
        return Step
    return MetaStep if cfg.SOLVER.META.ENABLED else ClassifierStep


def _remove(path: str) -> None:
    if os.path.exists(path):
        os.unlink(path)
