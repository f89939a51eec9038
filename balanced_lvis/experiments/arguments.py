"""Arguments that experiments of several runs share: methods, seeds and overrides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from ..utils.errors import InputError

SEEDS = (0, 1, 2)
# Config keys that an experiment sets for each run, and what to do instead.
OWN_KEYS = {"SEED": "use --seeds instead", "OUTPUT_DIR": "use --output instead"}


class StagedMethod(Protocol):
    """A method that may start from the model of another one."""

    @property
    def first_stage(self) -> str | None:
        """Key of that other method; None for end-to-end training."""


def choose_methods(methods: Sequence[str], table: Mapping[str, StagedMethod]) -> list[str]:
    """
    The chosen methods in the order of the table, with the first stages that they need.

    Args:
        methods: keys of ``table``.
        table: all methods.

    Raises:
        InputError: if a method is unknown or none is given, listing the valid ones.
    """
    unknown = [method for method in methods if method not in table]
    if unknown or not methods:
        names = ", ".join(map(repr, unknown)) or "empty"
        raise InputError(f"--methods: {names}; valid: {', '.join(table)}.")
    wanted: set[str] = set()
    for method in methods:
        key: str | None = method
        while key is not None:
            wanted.add(key)
            key = table[key].first_stage
    return [method for method in table if method in wanted]


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


def check_overrides(overrides: Sequence[str], own_keys: Mapping[str, str] = OWN_KEYS) -> None:
    """
    Args:
        overrides: ``KEY VALUE`` pairs.
        own_keys: config keys that the experiment sets for each run, and what to do instead.

    Raises:
        InputError: if such a key is among them.
    """
    for key in overrides[::2]:
        if key in own_keys:
            raise InputError(f"{key} differs between the runs of an experiment; {own_keys[key]}.")
