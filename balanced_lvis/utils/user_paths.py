"""Expansion of ~ in paths. A shell does not expand it in quotes or after an = sign."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from .errors import InputError


def expand_words(words: Iterable[str]) -> list[str]:
    """
    Expand ~ and ~user at the beginning of command-line arguments and of the value of ``--option=value``.
    """
    return [_OPTION.sub(lambda match: match[1] + os.path.expanduser(match[2]), word, count=1) for word in words]


_OPTION = re.compile(r"^(--[^=]+=|)(~.*)$", re.DOTALL)


def path_of(value: object, argument: str) -> str:
    """
    Args:
        value: argument of a function that takes a path.
        argument: its name.

    Returns:
        the path, with a leading ~ expanded.

    Raises:
        InputError: if it is not a path.
    """
    if not isinstance(value, (str, os.PathLike)):
        raise InputError(f"{argument} is {value!r:.80}, of type {type(value).__name__}; pass the path of a file.")
    return os.path.expanduser(os.fspath(value))


def expand_values(node: dict) -> None:
    """
    Expand ~ and ~user at the beginning of config values, in place. Only paths begin with it.

    Args:
        node: a config or a part of it.
    """
    for key, value in node.items():
        if isinstance(value, dict):
            expand_values(value)
        else:
            expanded = _expanded(value)
            if expanded != value:
                node[key] = expanded


def _expanded(value):
    if isinstance(value, str):
        return os.path.expanduser(value)
    if isinstance(value, (list, tuple)):
        return type(value)(map(_expanded, value))
    return value


_IS_FOLDER = "is a folder; name the file in it"


def folder_hint(path: str | os.PathLike) -> str:
    """
    The hint that follows a path in a message where a file was expected.

    Args:
        path: path of a file, of a folder or of nothing.

    Returns:
        the hint in parentheses, with a space before it, if the path is a folder; else "".
    """
    return f" (it {_IS_FOLDER})" if os.path.isdir(path) else ""


def why_no_file(path: str | os.PathLike) -> str:
    """The reason why a path is not a file, phrased to follow the path in a message."""
    if os.path.isdir(path):
        return _IS_FOLDER
    return "is not a regular file" if os.path.exists(path) else f"doesn't exist (looked in {os.getcwd()})"
