"""Paths as users write them: with ~ for the home folder, which a shell leaves alone in quotes and after an = sign."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable


def expand_words(words: Iterable[str]) -> list[str]:
    """
    A command line's words with ~ and ~user expanded, where a word or the value of an ``--option=value`` begins with it.
    """
    return [_OPTION.sub(lambda match: match[1] + os.path.expanduser(match[2]), word, count=1) for word in words]


_OPTION = re.compile(r"^(--[^=]+=|)(~.*)$", re.DOTALL)


def expand_values(node: dict) -> None:
    """
    Expand ~ and ~user in all values of a config that begin with it, in place: none but a path does.

    Args:
        node: a config, or any part of it.
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
    """What follows the name of a path that should be a file and isn't one."""
    if os.path.isdir(path):
        return _IS_FOLDER
    return "is not a regular file" if os.path.exists(path) else f"doesn't exist (looked in {os.getcwd()})"
