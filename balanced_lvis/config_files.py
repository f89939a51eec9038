"""Config files, looked through before they are read: within limits, and on files only."""

from __future__ import annotations

import os

import yaml

from .utils.errors import InputError
from .utils.user_paths import why_no_file

_LARGEST = 1 << 20  # bytes of a file; its nodes take about 500 times as much at most
_MOST_FILES = 20  # a config and those that it builds on
_MOST_NODES = 100_000  # with aliases written out, as they are when configs are copied
_LONGEST_SCALAR = 1 << 16  # characters
_DEEPEST = 50
_BASE, _MERGE = "_BASE_", "tag:yaml.org,2002:merge"


def check_config_file(path: str, _above: tuple[str, ...] = ()) -> None:
    """
    Look through a config and the files that its ``_BASE_`` names.

    Args:
        path: of the config.

    Raises:
        InputError: if a file is missing, no regular file or too large; if aliases or nesting make it too large; or if
            ``_BASE_`` is no file, or leads back to a file that it comes from.
        yaml.YAMLError, UnicodeDecodeError: if it is no yaml.
    """
    where = f"{_above[-1]}: its _BASE_" if _above else "--config-file"
    if not os.path.isfile(path):
        raise InputError(f"{where} {path!r} {why_no_file(path)}.")
    if os.path.getsize(path) > _LARGEST:
        raise InputError(f"{where} {path!r} has more than {_LARGEST:,} bytes; a config has a few thousand.")
    if len(_above) >= _MOST_FILES:
        raise InputError(f"{_above[0]}: _BASE_ leads through more than {_MOST_FILES} files.")
    identity = os.path.realpath(path)
    if identity in map(os.path.realpath, _above):
        raise InputError(f"{where} {path!r} leads back to a file that it comes from.")
    with open(path, "rb") as file:
        root = yaml.compose(file, Loader=yaml.SafeLoader)
    if root is not None:
        _count(root, path, {}, 0)
        for base in _bases(root, path):
            check_config_file(_resolved(base, path), (*_above, path))


def _count(node: yaml.Node, path: str, done: dict[int, int | None], depth: int) -> int:
    """Nodes at and below one, counted as often as aliases repeat them."""
    if depth > _DEEPEST:
        raise InputError(f"{path}: it is nested more than {_DEEPEST} deep.")
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
        raise InputError(f"{path}: it has more than {_MOST_NODES:,} values when its aliases are written out.")
    done[key] = number
    return number


def _bases(root: yaml.Node, path: str) -> list[str]:
    """The names under ``_BASE_``, one or a list of them; also of mappings that are merged in by ``<<``."""
    if not isinstance(root, yaml.MappingNode):
        return []
    names = []
    for key, value in root.value:
        parts = value.value if isinstance(value, yaml.SequenceNode) else [value]
        if key.tag == _MERGE:
            names += [name for part in parts for name in _bases(part, path)]
        elif isinstance(key, yaml.ScalarNode) and key.value == _BASE:
            for part in parts:
                if not isinstance(part, yaml.ScalarNode) or "://" in part.value:
                    shown = part.value if isinstance(part, yaml.ScalarNode) else "a list or mapping"
                    raise InputError(f"{path}: its _BASE_ is {shown!r:.200}; it must be the path of a file.")
                names.append(part.value)
    return names


def _resolved(base: str, path: str) -> str:
    """As Detectron2 does: relative to the file that names it."""
    return os.path.join(os.path.dirname(path), os.path.expanduser(base))
