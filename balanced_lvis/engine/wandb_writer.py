"""Metrics and images in Weights & Biases."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from detectron2.utils.events import EventWriter, get_event_storage

from ..utils.errors import InputError
from .metrics_file import WINDOW

logger = logging.getLogger(__name__)


class WandbWriter(EventWriter):
    """
    Writes metrics and images to a run of Weights & Biases. A run that is resumed from a checkpoint continues there.

    It must precede Detectron2's ``TensorboardXWriter``, which removes the images from the storage. The iteration is a
    metric of its own, "iteration", on which the others are drawn: a resumed run writes some iterations again, which
    the steps of Weights & Biases don't allow.

    Args:
        cfg: the config.
        run_id: returns the id of the training run; called by :meth:`open`.
    """

    def __init__(self, cfg, run_id: Callable[[], str]):
        self._cfg = cfg
        self._run_id = run_id
        self._run: Any = None
        self._written: dict[str, int] = {}  # name -> iteration of the latest value

    def open(self) -> None:
        """
        Start the run, or continue it.

        Raises:
            InputError: if Weights & Biases can't start it, for example because the user is not logged in.
        """
        import wandb

        node, folder = self._cfg.WANDB, self._cfg.OUTPUT_DIR
        try:
            self._run = wandb.init(
                project=node.PROJECT, entity=node.ENTITY or None, name=node.NAME or Path(os.path.abspath(folder)).name,
                id=self._run_id(), resume="allow", dir=folder, config=yaml.safe_load(self._cfg.dump()),
                settings=wandb.Settings(console="off"),  # the log is in log.txt
            )  # fmt: skip
        except wandb.Error as error:
            raise InputError(
                f"WANDB.PROJECT is {node.PROJECT!r}, but Weights & Biases can't start a run: {error} Run `wandb "
                "login`, set the environment variable WANDB_MODE=offline to upload later, or set WANDB.PROJECT to ''."
            ) from error
        self._run.define_metric("iteration")
        self._run.define_metric("*", step_metric="iteration")

    def write(self):
        """Write all new metrics and images."""
        import wandb

        storage = get_event_storage()
        lines: dict[int, dict[str, Any]] = defaultdict(dict)
        for name, (value, iteration) in storage.latest_with_smoothing_hint(WINDOW).items():
            if iteration > self._written.get(name, -1):
                lines[iteration][name] = value
                self._written[name] = iteration
        for name, pixels, iteration in storage._vis_data:  # kept for writers, without an interface
            lines[iteration][name] = wandb.Image(np.asarray(pixels).transpose(1, 2, 0))
        for iteration in sorted(lines):
            self._run.log({**lines[iteration], "iteration": iteration})

    def close(self, exit_code: int = 0):
        """
        End the run, if it was started. Errors are only logged: training has ended.

        Args:
            exit_code: exit status of training; Weights & Biases shows a run as failed if it is not 0.
        """
        if self._run is None:
            return
        try:
            self._run.finish(exit_code=exit_code)
        except Exception as error:  # several of its classes have no base in common
            logger.warning(
                "Weights & Biases can't end the run: %s: %s. What it lacks is in %s; upload it with `wandb sync`.",
                type(error).__name__, error, os.path.join(self._cfg.OUTPUT_DIR, "wandb"),
            )  # fmt: skip


def check_wandb(cfg) -> None:
    """
    Raises:
        InputError: if the config asks for Weights & Biases, and it is not installed.
    """
    if not cfg.WANDB.PROJECT:
        return
    spec = importlib.util.find_spec("wandb")
    if spec is None or spec.origin is None:  # without origin: a plain folder, such as that of earlier runs
        raise InputError(
            f"WANDB.PROJECT is {cfg.WANDB.PROJECT!r}, but the package wandb is not installed; install it with "
            "`pip install wandb`, or set WANDB.PROJECT to ''."
        )
