"""Optimizers by name."""

from __future__ import annotations

import torch
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping

from ..errors import InputError
from ..modeling.decoupled import ScaledLinear


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


def _parameters(cfg, model):
    """Detectron2's parameter groups. The scales of LWS are around 1, not 0, and so are not decayed."""
    scaled = any(isinstance(module, ScaledLinear) for module in model.modules())
    return get_default_optimizer_params(
        model,
        base_lr=cfg.SOLVER.BASE_LR,
        weight_decay_norm=cfg.SOLVER.WEIGHT_DECAY_NORM,
        bias_lr_factor=cfg.SOLVER.BIAS_LR_FACTOR,
        weight_decay_bias=cfg.SOLVER.WEIGHT_DECAY_BIAS,
        overrides={"scale": {"weight_decay": 0.0}} if scaled else None,
    )


def _build_sgd(cfg, model):
    sgd = maybe_add_gradient_clipping(cfg, torch.optim.SGD)
    return sgd(
        _parameters(cfg, model),
        lr=cfg.SOLVER.BASE_LR,
        momentum=cfg.SOLVER.MOMENTUM,
        nesterov=cfg.SOLVER.NESTEROV,
        weight_decay=cfg.SOLVER.WEIGHT_DECAY,
    )


def _build_adamw(cfg, model):
    adamw = maybe_add_gradient_clipping(cfg, torch.optim.AdamW)
    return adamw(_parameters(cfg, model), lr=cfg.SOLVER.BASE_LR, weight_decay=cfg.SOLVER.WEIGHT_DECAY)


_BUILDERS = {"SGD": _build_sgd, "AdamW": _build_adamw}
