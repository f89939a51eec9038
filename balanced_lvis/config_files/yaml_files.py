"""Config files: checked for size and nesting, then read with the files that their ``_BASE_`` names."""

from __future__ import annotations

import os

import yaml

from ..utils.errors import InputError
from ..utils.user_paths import why_no_file
from .imports import KEY as IMPORTS
from .names import shipped_config

_LARGEST = 1 << 18  # bytes of a file; its nodes take about 500 times as much at most
_MOST_FILES = 20  # a config and its bases
_MOST_NODES = 50_000  # with aliases expanded, as they are when configs are copied
_LONGEST_SCALAR = 1 << 16  # characters
_DEEPEST = 50
_BASE = "_BASE_"


def read_config_file(path: str, _above: tuple[str, ...] = ()) -> tuple[dict, list[tuple[str, object]]]:
    """
    Read a config and the files that its ``_BASE_`` names; later bases and the config itself override.

    Args:
        path: path of the config.

    Returns:
        one mapping of all files, and the values of ``IMPORTS``, bases first, each with the file that it is from.

    Raises:
        InputError: if a file is missing, not a regular file, not a mapping or too large; if aliases or nesting make it
            too large; or if ``_BASE_`` is not a file, or includes itself, directly or through other files.
        yaml.YAMLError, ValueError: if a file is not valid yaml.
        TypeError, AssertionError: if a file is not a mapping of config keys, or a section in one file is a value in
            another.
    """
    where = f"{_above[-1]}: its _BASE_" if _above else "--config-file"
    _check_file(path, _above, where)
    content = _content(path, where)
    merged: dict = {}
    imports: list[tuple[str, object]] = []
    bases = content.pop(_BASE, [])
    for base in bases if isinstance(bases, list) else [bases]:
        if not isinstance(base, str) or "://" in base:
            shown = "a list or mapping" if isinstance(base, (list, dict)) else base
            raise InputError(f"{path}: its _BASE_ is {shown!r:.200}; it must be the path of a file.")
        below, declared = read_config_file(_resolved(base, path), (*_above, path))
        _merge(below, merged)
        imports += declared
    if IMPORTS in content:
        value = content[IMPORTS]
        imports.append((path, value if isinstance(value, (list, dict)) else str(value)))  # as on the command line
    _merge(content, merged)
    return merged, imports


def _check_file(path: str, above: tuple[str, ...], where: str) -> None:
    if not os.path.isfile(path):
        raise InputError(f"{where} {path!r} {why_no_file(path)}.")
    if os.path.getsize(path) > _LARGEST:
        raise InputError(f"{where} {path!r} has more than {_LARGEST:,} bytes; a config has a few thousand.")
    if len(above) >= _MOST_FILES:
        raise InputError(f"{above[0]}: the chain of _BASE_ files has more than {_MOST_FILES} files.")
    if os.path.realpath(path) in map(os.path.realpath, above):
        raise InputError(f"{where} {path!r} includes itself, directly or through other files.")


def _content(path: str, where: str) -> dict:
    """The content of one file, made from the nodes that were counted."""
    with open(path, "rb") as file:
        loader = yaml.SafeLoader(file)  # in Python: deep nesting would overflow the stack of libyaml's
        root = loader.get_single_node()
    if not isinstance(root, yaml.MappingNode):
        found = "empty" if root is None else "a list" if isinstance(root, yaml.SequenceNode) else "a single value"
        raise InputError(f"{where} {path!r} must be a yaml mapping of config keys to values; it is {found}.")
    _count(root, path, {}, 0)
    return loader.construct_document(root)


def _count(node: yaml.Node, path: str, done: dict[int, int | None], depth: int) -> int:
    """Number of nodes at and below ``node``, each counted as often as aliases repeat it."""
    if depth > _DEEPEST:
        raise InputError(f"{path}: it is nested more than {_DEEPEST} levels deep.")
    key = id(node)
    if key in done:
        if (known := done[key]) is None:
            raise InputError(f"{path}: an alias contains itself{node.start_mark}.")
        return known
    done[key], number = None, 1
    if isinstance(node, yaml.ScalarNode):
        if len(node.value) > _LONGEST_SCALAR:
            raise InputError(f"{path}: a value has {len(node.value):,} characters{node.start_mark}.")
    else:
        children = node.value if isinstance(node, yaml.SequenceNode) else [part for pair in node.value for part in pair]
        for child in children:
            number += _count(child, path, done, depth + 1)
    if number > _MOST_NODES:
        raise InputError(f"{path}: it has more than {_MOST_NODES:,} values when its aliases are expanded.")
    done[key] = number
    return number


def _resolved(base: str, path: str) -> str:
    """Relative to the file that names it, as in Detectron2; if there is no such file, a config of balanced_lvis."""
    sibling = os.path.join(os.path.dirname(path), os.path.expanduser(base))
    return sibling if os.path.isfile(sibling) else shipped_config(base) or sibling


def _merge(upper: dict, lower: dict) -> None:
    """Merge ``upper`` into ``lower``, in place."""
    for key, value in upper.items():
        if isinstance(value, dict):  # copied, as an alias may have it in another section, too
            below = lower.setdefault(key, {})
            assert isinstance(below, dict), f"{key} is a section here, but a value in a _BASE_ file."
            _merge(value, below)
        else:
            lower[key] = value
