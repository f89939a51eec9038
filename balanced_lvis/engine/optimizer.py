"""Optimizers by name, with parameter groups and gradient clipping."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping

from ..config.lazy import LAZY
from ..lazy_config.files import build_part, lazy_config
from ..modeling.decoupled import has_scales, scale_decay
from ..utils.errors import InputError
from .speed import optimizer_kernel

FULL_MODEL = "full_model"
CLIP_TYPES = ("value", "norm", FULL_MODEL)  # Detectron2's two, and that of the whole gradient


def build_optimizer(cfg, model) -> torch.optim.Optimizer:
    """
    Build the optimizer ``SOLVER.OPTIMIZER`` with Detectron2's parameter groups and gradient clipping.

    Raises:
        InputError: for an unknown name, listing the valid ones.
    """
    check_optimizer(cfg)
    return _BUILDERS[cfg.SOLVER.OPTIMIZER](cfg, model)


def check_optimizer(cfg) -> None:
    """
    Raises:
        InputError: for an unknown ``SOLVER.OPTIMIZER``, listing the valid ones.
    """
    name = cfg.SOLVER.OPTIMIZER
    if name not in _BUILDERS:
        raise InputError(f"SOLVER.OPTIMIZER is {name!r}; valid: {', '.join(_BUILDERS)}.")


def check_clipping(cfg) -> None:
    """
    Raises:
        InputError: for an unknown type of gradient clipping, or an invalid value or norm.
    """
    clip = cfg.SOLVER.CLIP_GRADIENTS
    if not clip.ENABLED:
        return
    if clip.CLIP_TYPE not in CLIP_TYPES:
        raise InputError(f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE is {clip.CLIP_TYPE!r}; valid: {', '.join(CLIP_TYPES)}.")
    if not clip.CLIP_VALUE > 0:
        raise InputError(f"SOLVER.CLIP_GRADIENTS.CLIP_VALUE is {clip.CLIP_VALUE}; it must be more than 0.")
    if clip.CLIP_TYPE == FULL_MODEL and clip.NORM_TYPE != 2:
        raise InputError(
            f"SOLVER.CLIP_GRADIENTS.NORM_TYPE is {clip.NORM_TYPE}; CLIP_TYPE {FULL_MODEL!r} supports only 2.0."
        )


def clip_norm(solver) -> float | None:
    """The maximum norm of the gradient of the whole model, which the step clips; None for no such clipping."""
    clip = solver.CLIP_GRADIENTS
    return clip.CLIP_VALUE if clip.ENABLED and clip.CLIP_TYPE == FULL_MODEL else None


def _with_clipping(cfg, optimizer: type[torch.optim.Optimizer]) -> type[torch.optim.Optimizer]:
    """The optimizer class with Detectron2's clipping, by element or by parameter, if configured."""
    return optimizer if clip_norm(cfg.SOLVER) else maybe_add_gradient_clipping(cfg, optimizer)


def _parameters(cfg, model):
    """Detectron2's parameter groups, with the weight decay of LWS's scales."""
    scaled = has_scales(model)
    return get_default_optimizer_params(
        model,
        base_lr=cfg.SOLVER.BASE_LR,
        weight_decay_norm=cfg.SOLVER.WEIGHT_DECAY_NORM,
        bias_lr_factor=cfg.SOLVER.BIAS_LR_FACTOR,
        weight_decay_bias=cfg.SOLVER.WEIGHT_DECAY_BIAS,
        overrides={"scale": {"weight_decay": scale_decay(cfg)}} if scaled else None,
    )


def _build_sgd(cfg, model):
    sgd: Callable = _with_clipping(cfg, torch.optim.SGD)
    return sgd(
        _parameters(cfg, model),
        lr=cfg.SOLVER.BASE_LR,
        momentum=cfg.SOLVER.MOMENTUM,
        nesterov=cfg.SOLVER.NESTEROV,
        weight_decay=cfg.SOLVER.WEIGHT_DECAY,
        **optimizer_kernel(cfg),
    )


def _build_adamw(cfg, model):
    adamw: Callable = _with_clipping(cfg, torch.optim.AdamW)
    options = {"lr": cfg.SOLVER.BASE_LR, "weight_decay": cfg.SOLVER.WEIGHT_DECAY}
    return adamw(_parameters(cfg, model), **options, **optimizer_kernel(cfg))


def _build_lazy(cfg, model):
    """The optimizer that a LazyConfig declares."""
    lazy = lazy_config(cfg)
    if lazy.optimizer.get("params") is None:
        raise InputError(
            "optimizer of the LazyConfig has no params; set params=L(get_default_optimizer_params)(...), as in "
            "Detectron2's configs/common/optim.py."
        )
    lazy.optimizer.params.model = model
    optimizer = build_part(lazy, "optimizer", cfg.LAZY.FILE)
    for name in ("lr", "weight_decay"):
        for value in [group[name] for group in optimizer.param_groups if name in group]:
            if not isinstance(value, (int, float)) or not 0 <= value < math.inf:
                raise InputError(
                    f"optimizer of the LazyConfig has a parameter group with {name} {value!r}; it must be a number of "
                    "at least 0. Correct optimizer.params."
                )
    return optimizer if clip_norm(cfg.SOLVER) else maybe_add_gradient_clipping(cfg, optimizer)


_BUILDERS = {"SGD": _build_sgd, "AdamW": _build_adamw, LAZY: _build_lazy}
