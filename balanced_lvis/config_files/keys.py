"""Dotted keys of nested mappings, such as ``SOLVER.BASE_LR`` of a config."""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping
from typing import Any


def get(cfg: Mapping, key: str) -> Any:
    """
    The value or section of a key.

    Raises:
        KeyError: if there is none.
    """
    return functools.reduce(operator.getitem, key.split("."), cfg)


def parent(cfg: Mapping, key: str) -> tuple[Any, str]:
    """The section that a key is in, and the last part of the key."""
    path, _, name = key.rpartition(".")
    return get(cfg, path) if path else cfg, name


def flat(node: Mapping, prefix: str = "") -> dict[str, Any]:
    """{dotted key: value}, without empty sections."""
    out: dict[str, Any] = {}
    for key, value in node.items():
        out.update(flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value})
    return out
