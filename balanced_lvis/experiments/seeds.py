"""Training seeds of an experiment of several runs."""

from __future__ import annotations

from collections.abc import Sequence

from ..utils.errors import InputError

SEEDS = (0, 1, 2)
# Config keys that an experiment sets for each run, and the argument to use instead.
OWN_KEYS = {"SEED": "--seeds", "OUTPUT_DIR": "--output"}


def check_seeds(seeds: Sequence[int]) -> list[int]:
    """
    The distinct seeds, in their order.

    Raises:
        InputError: if there is none, or one is negative.
    """
    distinct = list(dict.fromkeys(seeds))
    if not distinct or min(distinct) < 0:
        raise InputError(f"--seeds: {distinct}; give one or more whole numbers from 0, such as 0 1 2.")
    return distinct


def check_overrides(overrides: Sequence[str]) -> None:
    """
    Args:
        overrides: ``KEY VALUE`` pairs.

    Raises:
        InputError: if a key of :data:`OWN_KEYS` is among them.
    """
    for key in overrides[::2]:
        if key in OWN_KEYS:
            raise InputError(f"{key} differs between the runs of an experiment; use {OWN_KEYS[key]} instead.")
