"""Config files: checked for size and nesting, then read with the files that their ``_BASE_`` names."""

from __future__ import annotations

import os
from collections.abc import Iterator

import yaml

from ..utils.errors import InputError
from ..utils.user_paths import why_no_file
from .names import shipped_config

_LARGEST = 1 << 18  # bytes of a file; its nodes take about 500 times as much at most
_MOST_FILES = 20  # a config and its bases
_MOST_NODES = 50_000  # with aliases expanded, as they are when configs are copied
_LONGEST_SCALAR = 1 << 16  # characters
_DEEPEST = 50
# libyaml's is faster, but deep nesting, which the check refuses, would overflow its stack.
_CheckedLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_BASE, _IMPORTS, _MERGE = "_BASE_", "IMPORTS", "tag:yaml.org,2002:merge"


def check_config_file(path: str, _above: tuple[str, ...] = ()) -> list[tuple[str, str | list[str]]]:
    """
    Check a config and the files that its ``_BASE_`` names.

    Args:
        path: path of the config.

    Returns:
        the values of ``IMPORTS`` as they are written, bases first, each with the file that it is from.

    Raises:
        InputError: if a file is missing, not a regular file, not a mapping or too large; if aliases or nesting make it
            too large; or if ``_BASE_`` is not a file, or includes itself, directly or through other files.
        yaml.YAMLError, UnicodeDecodeError: if the file is not valid yaml.
    """
    where = f"{_above[-1]}: its _BASE_" if _above else "--config-file"
    if not os.path.isfile(path):
        raise InputError(f"{where} {path!r} {why_no_file(path)}.")
    if os.path.getsize(path) > _LARGEST:
        raise InputError(f"{where} {path!r} has more than {_LARGEST:,} bytes; a config has a few thousand.")
    if len(_above) >= _MOST_FILES:
        raise InputError(f"{_above[0]}: the chain of _BASE_ files has more than {_MOST_FILES} files.")
    identity = os.path.realpath(path)
    if identity in map(os.path.realpath, _above):
        raise InputError(f"{where} {path!r} includes itself, directly or through other files.")
    with open(path, "rb") as file:
        root = yaml.compose(file, Loader=yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode):
        found = "empty" if root is None else "a list" if isinstance(root, yaml.SequenceNode) else "a single value"
        raise InputError(f"{where} {path!r} must be a yaml mapping of config keys to values; it is {found}.")
    _count(root, path, {}, 0)
    imports = []
    for base in _bases(root, path):
        imports += check_config_file(_resolved(base, path), (*_above, path))
    return imports + [(path, _plain(value)) for value in _values(root, _IMPORTS)]


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


def _values(root: yaml.Node, wanted: str) -> Iterator[yaml.Node]:
    """The values of a top-level key, also of mappings that are merged in by ``<<``."""
    if not isinstance(root, yaml.MappingNode):
        return
    for key, value in root.value:
        if key.tag == _MERGE:
            for part in _parts(value):
                yield from _values(part, wanted)
        elif isinstance(key, yaml.ScalarNode) and key.value == wanted:
            yield value


def _bases(root: yaml.Node, path: str) -> list[str]:
    """The names under ``_BASE_``, one or a list of them."""
    names = []
    for value in _values(root, _BASE):
        for part in _parts(value):
            if not isinstance(part, yaml.ScalarNode) or "://" in part.value:
                shown = part.value if isinstance(part, yaml.ScalarNode) else "a list or mapping"
                raise InputError(f"{path}: its _BASE_ is {shown!r:.200}; it must be the path of a file.")
            names.append(part.value)
    return names


def _parts(value: yaml.Node) -> list[yaml.Node]:
    return value.value if isinstance(value, yaml.SequenceNode) else [value]


def _plain(value: yaml.Node) -> str | list[str]:
    """A string or a list of strings; mappings and nested lists become text that no module name can be."""
    if isinstance(value, yaml.ScalarNode):
        return value.value
    return [part.value if isinstance(part, yaml.ScalarNode) else f"<{part.tag}>" for part in _parts(value)]


def _resolved(base: str, path: str) -> str:
    """Relative to the file that names it, as in Detectron2; if there is no such file, a config of balanced_lvis."""
    sibling = os.path.join(os.path.dirname(path), os.path.expanduser(base))
    return sibling if os.path.isfile(sibling) else shipped_config(base) or sibling


def read_config_file(path: str) -> dict:
    """
    Read a config and the files that its ``_BASE_`` names into one mapping; later bases and the config itself override.

    Args:
        path: path of a config that :func:`check_config_file` accepts.

    Raises:
        TypeError, AttributeError, AssertionError, yaml.YAMLError: if a file is not a mapping, or a section in one file
            is a value in another.
    """
    with open(path, encoding="utf-8") as file:
        content = yaml.load(file, _CheckedLoader)
    bases = content.pop(_BASE, [])
    merged: dict = {}
    for base in [bases] if isinstance(bases, str) else bases:
        _merge(read_config_file(_resolved(base, path)), merged)
    _merge(content, merged)
    return merged


def _merge(upper: dict, lower: dict) -> None:
    """Merge ``upper`` into ``lower``, in place."""
    for key, value in upper.items():
        if isinstance(value, dict):  # copied, as an alias may have it in another section, too
            below = lower.setdefault(key, {})
            assert isinstance(below, dict), f"{key} is a section here, but a value in a _BASE_ file."
            _merge(value, below)
        else:
            lower[key] = value
