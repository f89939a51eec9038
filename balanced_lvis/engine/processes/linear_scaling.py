"""Linear scaling: a schedule written for some number of processes, run by another."""

from __future__ import annotations

import logging

from ...utils.errors import InputError

logger = logging.getLogger(__name__)


def scale_linearly(cfg, world_size: int) -> None:
    """
    Scale a config that names a ``SOLVER.REFERENCE_WORLD_SIZE`` to ``world_size`` processes, in place.

    Images per process stay the same: batches and learning rates grow in proportion, iterations and periods shrink.
    Detectron2 scales inside its trainer, after everything that depends on batches has been checked, and knows of no
    other batches; this is done once, first, and leaves ``REFERENCE_WORLD_SIZE`` at ``world_size``, so that neither
    Detectron2 nor a run of the saved config scales again. 0 leaves everything as it is.

    Raises:
        InputError: if ``REFERENCE_WORLD_SIZE`` is negative or doesn't divide a batch.
    """
    solver, reference = cfg.SOLVER, cfg.SOLVER.REFERENCE_WORLD_SIZE
    if reference < 0:
        raise InputError(f"SOLVER.REFERENCE_WORLD_SIZE is {reference}; it must be 0 (no scaling) or more.")
    if reference in (0, world_size):
        return
    for key, value in (("IMS_PER_BATCH", solver.IMS_PER_BATCH), ("META.IMS_PER_BATCH", solver.META.IMS_PER_BATCH)):
        if value % reference:
            raise InputError(
                f"SOLVER.{key} is {value}, which SOLVER.REFERENCE_WORLD_SIZE {reference} processes can't share evenly; "
                f"set it to a multiple of {reference}."
            )
    scale = world_size / reference
    solver.IMS_PER_BATCH = solver.IMS_PER_BATCH // reference * world_size
    solver.META.IMS_PER_BATCH = solver.META.IMS_PER_BATCH // reference * world_size
    for key in ("BASE_LR", "BASE_LR_END"):
        if key in solver:  # Detectron2 before 2022 has no rate to end with
            solver[key] *= scale
    for key in ("MAX_ITER", "WARMUP_ITERS", "CHECKPOINT_PERIOD"):
        solver[key] = round(solver[key] / scale)
    solver.CHECKPOINT_PERIOD = max(1, solver.CHECKPOINT_PERIOD)
    solver.STEPS = tuple(round(step / scale) for step in solver.STEPS)
    cfg.TEST.EVAL_PERIOD = max(1, round(cfg.TEST.EVAL_PERIOD / scale)) if cfg.TEST.EVAL_PERIOD else 0
    solver.REFERENCE_WORLD_SIZE = world_size


def log_scaling(before, after) -> None:
    """
    Write what :func:`scale_linearly` changed to the log.

    Args:
        before: the config as it was read.
        after: the one that it has become.
    """
    if before.SOLVER.REFERENCE_WORLD_SIZE == after.SOLVER.REFERENCE_WORLD_SIZE:
        return
    pairs = {
        **{f"SOLVER.{key}": (before.SOLVER[key], after.SOLVER[key]) for key in before.SOLVER},
        "SOLVER.META.IMS_PER_BATCH": (before.SOLVER.META.IMS_PER_BATCH, after.SOLVER.META.IMS_PER_BATCH),
        "TEST.EVAL_PERIOD": (before.TEST.EVAL_PERIOD, after.TEST.EVAL_PERIOD),
    }
    changed = [f"  {key}: {old} -> {new}" for key, (old, new) in pairs.items() if old != new and key != "SOLVER.META"]
    logger.info(
        "Linear scaling from %d to %d processes:\n%s",
        before.SOLVER.REFERENCE_WORLD_SIZE, after.SOLVER.REFERENCE_WORLD_SIZE, "\n".join(changed),
    )  # fmt: skip
