"""Options that are declared as keyword-only parameters of constructors and functions."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping


def keyword_options(function: Callable) -> dict[str, object]:
    """
    Args:
        function: a function or class.

    Returns:
        {name: default} of its keyword-only parameters, in their order; ``inspect.Parameter.empty`` for a parameter
        without a default.
    """
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def chosen_options(node: Mapping, name: str) -> dict[str, object]:
    """
    The options of one method as keyword arguments.

    Args:
        node: config node that has a node per method, under its name in capitals.
        name: name of the method.

    Returns:
        {option in lower case: value}; empty where the method has no options.
    """
    return {key.lower(): value for key, value in node.get(name.upper(), {}).items()}
