"""The learning-rate schedule: its checks, and its linear scaling to the number of processes."""

from __future__ import annotations

import logging
import math

from detectron2.solver import LRMultiplier, build_lr_scheduler

from ..config.lazy import LAZY
from ..config_files.keys import get, parent
from ..lazy_config.files import build_part, lazy_config
from ..utils.errors import InputError, did_you_mean
from ..utils.text import described

logger = logging.getLogger(__name__)

# Keys of batch sizes in SOLVER: images per iteration of all processes together.
BATCH_SIZES = ("IMS_PER_BATCH", "META.IMS_PER_BATCH")


def build_schedule(cfg, optimizer):
    """Build the scheduler ``SOLVER.LR_SCHEDULER_NAME``."""
    return SCHEDULES[cfg.SOLVER.LR_SCHEDULER_NAME](cfg, optimizer)


def _build_lazy(cfg, optimizer) -> LRMultiplier:
    """The schedule that a LazyConfig declares, over all iterations."""
    multiplier = build_part(lazy_config(cfg), "lr_multiplier", cfg.LAZY.FILE)
    for part in (0.0, 0.5, 1 - 1 / cfg.SOLVER.MAX_ITER):
        where = f"lr_multiplier of the LazyConfig, after {part:.0%} of the iterations,"
        try:
            value = float(multiplier(part))
        except Exception as error:  # of code in the LazyConfig
            raise InputError(f"{where} fails with {described(error)}; correct it.") from error
        if not 0 <= value < math.inf:
            raise InputError(f"{where} gives the factor {value}; it must be a number of at least 0.")
    return LRMultiplier(optimizer, multiplier, cfg.SOLVER.MAX_ITER)


# Newer versions of Detectron2 have one more, which no config here uses.
SCHEDULES = {"WarmupMultiStepLR": build_lr_scheduler, "WarmupCosineLR": build_lr_scheduler, LAZY: _build_lazy}


def check_schedule(cfg) -> None:
    """
    Raises:
        InputError: for an unknown schedule, unordered steps, or an invalid final learning rate.
    """
    solver = cfg.SOLVER
    name = solver.LR_SCHEDULER_NAME
    if name not in SCHEDULES:
        raise InputError(
            f"SOLVER.LR_SCHEDULER_NAME is {name!r}; valid: {', '.join(SCHEDULES)}.{did_you_mean(name, SCHEDULES)}"
        )
    if name == "WarmupMultiStepLR" and list(solver.STEPS) != sorted(set(solver.STEPS)):
        raise InputError(f"SOLVER.STEPS is {tuple(solver.STEPS)}; iterations must increase.")
    end = solver.get("BASE_LR_END", 0.0)
    if name == "WarmupCosineLR" and not 0 <= end <= solver.BASE_LR:
        raise InputError(f"SOLVER.BASE_LR_END is {end}; it must be from 0 to SOLVER.BASE_LR, {solver.BASE_LR}.")


def scale_linearly(cfg, world_size: int) -> None:
    """
    Scale a config with ``SOLVER.REFERENCE_WORLD_SIZE`` to ``world_size`` processes, in place.

    The number of images per process stays the same: batch sizes and learning rates grow in proportion to the number of
    processes, iterations and periods shrink. Detectron2 scales inside its trainer, after everything that depends on
    batch sizes was checked, and scales only one of them. Here the config is scaled once, first, and
    ``REFERENCE_WORLD_SIZE`` is set to ``world_size``, so that a run of the saved config doesn't scale again. 0 means no
    scaling.

    Raises:
        InputError: if ``REFERENCE_WORLD_SIZE`` is negative or doesn't divide a batch size.
    """
    solver, reference = cfg.SOLVER, cfg.SOLVER.REFERENCE_WORLD_SIZE
    if reference < 0:
        raise InputError(f"SOLVER.REFERENCE_WORLD_SIZE is {reference}; it must be 0 (no scaling) or more.")
    if reference in (0, world_size):
        return
    for key in BATCH_SIZES:
        if get(solver, key) % reference:
            raise InputError(
                f"SOLVER.{key} is {get(solver, key)}, which SOLVER.REFERENCE_WORLD_SIZE {reference} processes can't "
                f"share evenly; set it to a multiple of {reference}."
            )
    scale = world_size / reference
    for key in BATCH_SIZES:
        node, name = parent(solver, key)
        node[name] = node[name] // reference * world_size
    for key in ("BASE_LR", "BASE_LR_END"):
        if key in solver:  # Detectron2 before 2022 has no BASE_LR_END
            solver[key] *= scale
    for key in ("MAX_ITER", "WARMUP_ITERS", "CHECKPOINT_PERIOD"):
        solver[key] = round(solver[key] / scale)
    solver.CHECKPOINT_PERIOD = max(1, solver.CHECKPOINT_PERIOD)
    solver.STEPS = tuple(round(step / scale) for step in solver.STEPS)
    cfg.TEST.EVAL_PERIOD = max(1, round(cfg.TEST.EVAL_PERIOD / scale)) if cfg.TEST.EVAL_PERIOD else 0
    solver.REFERENCE_WORLD_SIZE = world_size


def scaled_linearly(cfg, world_size: int):
    """A config scaled by :func:`scale_linearly`; the same object if nothing changes."""
    if cfg.SOLVER.REFERENCE_WORLD_SIZE in (0, world_size):
        return cfg
    scaled = cfg.clone()
    scaled.defrost()
    scale_linearly(scaled, world_size)
    if cfg.is_frozen():
        scaled.freeze()
    return scaled


def log_scaling(before, after) -> None:
    """
    Log what :func:`scale_linearly` has changed.

    Args:
        before: the config before scaling.
        after: the scaled config.
    """
    if before.SOLVER.REFERENCE_WORLD_SIZE == after.SOLVER.REFERENCE_WORLD_SIZE:
        return
    keys = [*BATCH_SIZES, *(key for key in before.SOLVER if key not in BATCH_SIZES)]
    pairs = {
        **{f"SOLVER.{key}": (get(before.SOLVER, key), get(after.SOLVER, key)) for key in keys},
        "TEST.EVAL_PERIOD": (before.TEST.EVAL_PERIOD, after.TEST.EVAL_PERIOD),
    }
    changed = [
        f"  {key}: {old} -> {new}" for key, (old, new) in pairs.items() if old != new and not isinstance(old, dict)
    ]
    logger.info(
        "Linear scaling from %d to %d processes:\n%s",
        before.SOLVER.REFERENCE_WORLD_SIZE, after.SOLVER.REFERENCE_WORLD_SIZE, "\n".join(changed),
    )  # fmt: skip
