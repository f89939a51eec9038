"""Learning rate schedules: a linear warm-up, then a cosine or steps."""

from __future__ import annotations

import math
from collections.abc import Callable

from ..utils.errors import InputError, did_you_mean


def cosine(cfg, iteration: int) -> float:
    """From 1 to 0 along half a period of a cosine, over the iterations after the warm-up."""
    solver = cfg.SOLVER
    done = (iteration - solver.WARMUP_ITERS) / max(1, solver.MAX_ITER - solver.WARMUP_ITERS)
    return 0.5 * (1 + math.cos(math.pi * min(max(done, 0.0), 1.0)))


def steps(cfg, iteration: int) -> float:
    """``SOLVER.GAMMA`` to the power of the number of ``SOLVER.STEPS`` that have been reached."""
    return cfg.SOLVER.GAMMA ** sum(iteration >= step for step in cfg.SOLVER.STEPS)


SCHEDULES: dict[str, Callable[..., float]] = {"cosine": cosine, "steps": steps}


def learning_rate(cfg, iteration: int) -> float:
    """
    Args:
        cfg: config.
        iteration: from 0.

    Raises:
        InputError: for an unknown ``SOLVER.LR_SCHEDULE``.
    """
    name = cfg.SOLVER.LR_SCHEDULE
    if name not in SCHEDULES:
        hint = did_you_mean(name, SCHEDULES)
        raise InputError(f"SOLVER.LR_SCHEDULE is {name!r}.{hint} Valid: {', '.join(SCHEDULES)}.")
    done = min(1.0, (iteration + 1) / max(1, cfg.SOLVER.WARMUP_ITERS))
    warmup = cfg.SOLVER.WARMUP_FACTOR * (1 - done) + done
    return cfg.SOLVER.BASE_LR * warmup * SCHEDULES[name](cfg, iteration)
