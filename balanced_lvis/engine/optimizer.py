"""Optimizers by name."""

from __future__ import annotations

import torch
from detectron2.solver import build_optimizer as build_sgd
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping

from ..errors import InputError


def build_optimizer(cfg, model) -> torch.optim.Optimizer:
    """
    The optimizer that ``SOLVER.OPTIMIZER`` names, with Detectron2's parameter groups and gradient clipping.

    Raises:
        InputError: for an unknown name, listing the valid ones.
    """
    check_optimizer(cfg.SOLVER.OPTIMIZER)
    return _BUILDERS[cfg.SOLVER.OPTIMIZER](cfg, model)


def check_optimizer(name: str) -> None:
    """
    Raises:
        InputError: for an unknown name, listing the valid ones.
    """
    if name not in _BUILDERS:
        raise InputError(f"SOLVER.OPTIMIZER is {name!r}; valid: {', '.join(_BUILDERS)}.")


def _build_adamw(cfg, model):
    parameters = get_default_optimizer_params(
        model,
        base_lr=cfg.SOLVER.BASE_LR,
        weight_decay_norm=cfg.SOLVER.WEIGHT_DECAY_NORM,
        bias_lr_factor=cfg.SOLVER.BIAS_LR_FACTOR,
        weight_decay_bias=cfg.SOLVER.WEIGHT_DECAY_BIAS,
    )
    adamw = maybe_add_gradient_clipping(cfg, torch.optim.AdamW)
    return adamw(parameters, lr=cfg.SOLVER.BASE_LR, weight_decay=cfg.SOLVER.WEIGHT_DECAY)


_BUILDERS = {"SGD": build_sgd, "AdamW": _build_adamw}
