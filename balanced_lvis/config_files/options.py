"""Config nodes for the options of activations, calibrations and samplers, built from their constructors."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping

from yacs.config import CfgNode as CN

from ..utils.errors import InputError
from ..utils.keyword_options import keyword_options

_TYPES = (bool, int, float, str, tuple, list, type(None))  # types of config values


def add_options(parent: CN, kind: str, methods: Mapping[str, Callable]) -> None:
    """
    Add a node for each method, named like the method in capitals: empty where it has no options.

    Args:
        parent: config node to add to.
        kind: noun for the methods in messages, such as "activation".
        methods: {name: class or function whose keyword-only parameters are the options}.

    Raises:
        InputError: if an option has no default, or a default that no config value can be.
    """
    for name, function in methods.items():
        node = parent[name.upper()] = type(parent)()
        for option, default in keyword_options(function).items():
            node[option.upper()] = _checked(kind, name, option, default)


def _checked(kind: str, name: str, option: str, default):
    if default is inspect.Parameter.empty:
        raise InputError(
            f"Option {option!r} of {kind} {name!r} has no default; add one to the parameter of its constructor."
        )
    if not isinstance(default, _TYPES):
        raise InputError(
            f"Option {option!r} of {kind} {name!r} has the default {default!r:.100}, a {type(default).__name__}; "
            "config values must be numbers, strings, tuples, lists or None."
        )
    return default
