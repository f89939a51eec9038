"""Settings that make a model faster or save memory; all are off by default."""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil

import torch
from torch import nn

from ..modeling.activation_checkpointing import check_checkpointing, checkpoint_activations
from ..utils.errors import InputError

logger = logging.getLogger(__name__)

KERNELS = ("", "foreach", "fused")  # of optimizers; "": torch chooses


def check_speed(cfg) -> None:
    """
    Raises:
        InputError: for an unknown ``SOLVER.OPTIMIZER_KERNEL`` or ``MODEL.ACTIVATION_CHECKPOINTING``, or
            ``MODEL.COMPILE_BACKBONE`` without a compiler.
    """
    kernel = cfg.SOLVER.OPTIMIZER_KERNEL
    if kernel not in KERNELS:
        raise InputError(f"SOLVER.OPTIMIZER_KERNEL is {kernel!r}; valid: {', '.join(map(repr, KERNELS))}.")
    if cfg.MODEL.COMPILE_BACKBONE:
        _check_compiler(cfg.MODEL.DEVICE)
    check_checkpointing(cfg)


def _check_compiler(device: str) -> None:
    if device.startswith("cuda"):
        if importlib.util.find_spec("triton") is None:
            raise InputError("MODEL.COMPILE_BACKBONE is True, which needs triton on a GPU: pip install triton.")
    elif not any(map(shutil.which, filter(None, (os.environ.get("CXX"), "g++", "clang++")))):
        raise InputError(
            "MODEL.COMPILE_BACKBONE is True, which needs a C++ compiler on the CPU: install g++ or clang++, name one "
            "in the environment variable CXX, or set it to False."
        )


def apply_speed(cfg, model: nn.Module) -> None:
    """
    Apply the speed settings of a config to a new model. Its parameters keep their names and shapes.

    Args:
        cfg: a config checked by :func:`check_speed`.
        model: a ``GeneralizedRCNN``, modified in place.
    """
    if cfg.MODEL.TF32:
        torch.set_float32_matmul_precision("high")
    if cfg.MODEL.CHANNELS_LAST:
        model.to(memory_format=torch.channels_last)  # outputs of convolutions follow the format of the weights
    if cfg.MODEL.COMPILE_BACKBONE:
        model.get_submodule("backbone").compile(dynamic=True)  # image sizes vary
    if parts := cfg.MODEL.ACTIVATION_CHECKPOINTING:
        count = checkpoint_activations(model, parts)
        logger.info("MODEL.ACTIVATION_CHECKPOINTING: %d modules are recomputed in the backward pass", count)
    chosen = [key for key in ("TF32", "CHANNELS_LAST", "COMPILE_BACKBONE") if cfg.MODEL[key]]
    if chosen:
        logger.info("MODEL.%s: results are not bit-identical to those without", ", MODEL.".join(chosen))


def optimizer_kernel(cfg) -> dict[str, bool]:
    """Keyword arguments of torch's optimizers for ``SOLVER.OPTIMIZER_KERNEL``."""
    return {cfg.SOLVER.OPTIMIZER_KERNEL: True} if cfg.SOLVER.OPTIMIZER_KERNEL else {}
