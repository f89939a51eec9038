"""Learning rates over time, checked before work starts."""

from __future__ import annotations

from ..utils.errors import InputError, did_you_mean

# Detectron2 knows one more, of its newer versions, which no config here uses.
SCHEDULES = ("WarmupMultiStepLR", "WarmupCosineLR")


def check_schedule(solver) -> None:
    """
    Args:
        solver: the config's SOLVER.

    Raises:
        InputError: for an unknown schedule, steps that are out of order, or a final rate that is none.
    """
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
