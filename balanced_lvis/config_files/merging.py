"""Merging of config files and overrides into a config, with clear errors for unknown keys and wrong types."""

from __future__ import annotations

import contextlib
import difflib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

import yaml
from yacs.config import CfgNode as CN

from ..utils.errors import InputError
from ..utils.text import one_line
from ..utils.user_paths import expand_values, path_of
from .imports import KEY as IMPORTS
from .imports import import_modules, module_names
from .names import config_path, is_lazy_file
from .yaml_files import read_config_file

Config = TypeVar("Config", bound=CN)


def merge_content(cfg: CN, content: dict, path: str) -> None:
    """Merge the content of the file ``path`` into a config, in place."""
    cfg.merge_from_other_cfg(CN(content))


def merged_config(
    default_config: Callable[[], Config],
    config_file: str | os.PathLike = "",
    opts: Iterable = (),
    merge: Callable[[Config, dict, str], None] = merge_content,
    before_override: Callable[[Config, str], None] = lambda cfg, key: None,
    before_defaults: Callable[[dict], object] = lambda content: None,
) -> Config:
    """
    A default config with the values of a yaml file and of overrides.

    Modules listed under ``IMPORTS``, in the file, its bases and the overrides together, are imported first. In all
    values, a path may begin with ~.

    Args:
        default_config: returns a new config with all keys, ``IMPORTS`` among them; called after the imports, as modules
            can register methods whose options are keys.
        config_file: path of a yaml file, or name of a config that comes with balanced_lvis
            (:func:`.names.config_path`); empty for the defaults.
        opts: ``KEY VALUE`` pairs, flat; values are text, as on the command line, or Python values.
        merge: merges the content of the file at a path into the config.
        before_override: called with the config and the key of each override; can add keys.
        before_defaults: called with the content of the file before ``default_config``; can register methods, too.

    Raises:
        InputError: if a file is missing or malformed, a module can't be imported, a key is unknown (naming the closest
            valid ones) or a value has the wrong type.
    """
    path = config_path(path_of(config_file, "config_file")) if config_file else ""
    if is_lazy_file(path):
        raise InputError(f"--config-file {path!r} is a Python file; this command takes yaml configs only.")
    opts = flat_list(opts)
    content: dict = {}
    declared: list[tuple[str, object]] = []
    if path:
        with _explained(path):
            content, declared = read_config_file(path)
    imports = _import_declared(declared, opts)
    before_defaults(content)
    cfg = default_config()
    cfg[IMPORTS] = None  # takes any value: files may write one name, and those of all files count
    if path:
        merge_mapping(cfg, content, path, merge)
    _merge_opts(cfg, opts, before_override)
    cfg[IMPORTS] = imports
    expand_values(cfg)
    return cfg


def merge_mapping(
    cfg: Config, content: dict, path: str, merge: Callable[[Config, dict, str], None] = merge_content
) -> None:
    """
    Merge a mapping into a config, in place.

    Args:
        cfg: the config.
        content: config keys and values, nested.
        path: the file that the mapping is from, for messages.
        merge: as for :func:`merged_config`.

    Raises:
        InputError: if a key is unknown (naming the closest valid ones) or a value has the wrong type.
    """
    with _explained(path):
        try:
            merge(cfg, _with_floats(cfg, content), path)
        except KeyError as error:
            raise InputError(_unknown_key(cfg, error, path)) from error


def _with_floats(cfg: CN, content: Mapping) -> dict:
    """The content with whole numbers as floats where the config has floats, as yacs takes no 200 for 200.0."""
    changed = {}
    for key, value in content.items():
        current = cfg.get(key)
        if isinstance(current, CN) and isinstance(value, Mapping):
            value = _with_floats(current, value)
        elif isinstance(current, float) and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        changed[key] = value
    return changed


def set_value(cfg: CN, key: str, value, name: str) -> None:
    """
    Set a key of a config to the value of a setting that has another name elsewhere.

    Args:
        cfg: the config to change.
        key: dotted key that the config has.
        value: new value.
        name: the setting, for messages.

    Raises:
        InputError: if the value has the wrong type.
    """
    try:
        _merge_override(cfg, key, value)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error


def flat_list(opts: Iterable) -> list:
    """
    Overrides as a list.

    Raises:
        InputError: for anything else than a list, such as a string or a mapping.
    """
    if isinstance(opts, (str, bytes, Mapping)) or not isinstance(opts, Iterable):
        raise InputError(
            f"opts is of type {type(opts).__name__}; pass a list of keys and values, such as "
            '["SOLVER.MAX_ITER", 1000, "OUTPUT_DIR", "output/mine"].'
        )
    return list(opts)


def _import_declared(in_files: list[tuple[str, object]], opts: list) -> tuple[str, ...]:
    on_command_line = [("command line", value) for key, value in zip(opts[0::2], opts[1::2]) if key == IMPORTS]
    imported = {}
    for source, value in (*in_files, *on_command_line):
        names = module_names(value, source)
        import_modules(names, f"{source}: {IMPORTS}")
        imported.update(dict.fromkeys(names))
    return tuple(imported)


@contextlib.contextmanager
def _explained(path: str) -> Iterator[None]:
    """Turns errors of yaml and yacs into InputError."""
    try:
        yield
    except InputError:
        raise
    except (TypeError, AttributeError) as error:
        raise InputError(f"{path} must be a yaml mapping of config keys to values ({error}).") from error
    except _NESTED as error:
        raise InputError(f"{path}: {_TOO_DEEP}.") from error
    except (ValueError, yaml.YAMLError, AssertionError) as error:
        raise InputError(f"{path}: {_type_mismatch(error)}") from error


def _merge_opts(cfg: Config, opts: list, before: Callable[[Config, str], None]) -> None:
    options = [word for word in opts if isinstance(word, str) and word.startswith("--")]
    if options:
        raise InputError(
            f"{options[0][:80]} comes after overrides of the config; put it before the first KEY VALUE pair."
        )
    if len(opts) % 2:
        shown = " ".join(map(str, opts))
        raise InputError(f"Overrides are KEY VALUE pairs, but there is an odd number of words ({len(opts)}): {shown}")
    for key, value in zip(opts[0::2], opts[1::2]):
        if key != IMPORTS:
            before(cfg, str(key))
            _merge_override(cfg, str(key), value)


def _merge_override(cfg: CN, key: str, value) -> None:
    if isinstance(_node(cfg, key), float) and _is_whole(value):
        value = float(value)  # yacs takes no 200 for 200.0
    try:
        cfg.merge_from_list([key, value])
    except (KeyError, AssertionError, TypeError) as error:
        if _node(cfg, key) is not None:
            raise InputError(f"{key} {value}: {error}") from error
        raise InputError(_unknown_key(cfg, KeyError(f"Non-existent key: {key}"), "command line")) from error
    except _NESTED as error:
        raise InputError(f"{key} is {str(value)[:40]!r}...: {_TOO_DEEP}.") from error
    except ValueError as error:
        raise InputError(f"{key} is {value!r:.200}: {_type_mismatch(error)}") from error


def _is_whole(value) -> bool:
    if isinstance(value, str):
        return re.fullmatch(r"[+-]?\d{1,300}", value.strip()) is not None
    return isinstance(value, int) and not isinstance(value, bool)


# Raised by Python's parser, with which yacs reads values.
_NESTED = (RecursionError, MemoryError)
_TOO_DEEP = "a value is nested too deeply"
# The message of yacs for a value whose type differs from the default's.
_MISMATCH = re.compile(
    r"Type mismatch \(<class '(.*)'> vs\. <class '.*'>\) with values \((.*) vs\. .*\) for config key: (.*)", re.DOTALL
)


def _type_mismatch(error: Exception) -> str:
    match = _MISMATCH.fullmatch(str(error))
    if match and match[1].endswith(".CfgNode"):
        return f"{match[3]} is a section of keys, not a value; set keys in it."
    return f"{match[3]} must be of type {match[1]}, like {match[2] or repr('')}." if match else str(error)


def _node(cfg: CN, key: str):
    node = cfg
    for part in key.split("."):
        if not isinstance(node, CN) or part not in node:
            return None
        node = node[part]
    return node


_METHODS = ("ACTIVATION", "CALIBRATION", "SAMPLER")  # nodes with the options of methods


def _unknown_key(cfg: CN, error: KeyError, source: str) -> str:
    """The message for an unknown key, which yacs names at the end of its own message."""
    key = str(error.args[0]).split(": ", 1)[-1]
    parent, _, name = key.rpartition(".")
    node = _node(cfg, parent) if parent else cfg
    while not isinstance(node, CN):  # the parent itself is misspelt: report at the level that exists
        parent, _, name = parent.rpartition(".")
        node = _node(cfg, parent) if parent else cfg
    close = difflib.get_close_matches(name, list(node), n=1)
    hint = f" Did you mean {one_line('.'.join(filter(None, [parent, close[0]])))}?" if close else ""
    if parent.rpartition(".")[2] in _METHODS:
        hint += f" Options of a method from outside the package need its module in {IMPORTS}, or --import."
    key, parent, valid = one_line(key), one_line(parent), ", ".join(map(one_line, sorted(node)))
    return f"{source}: unknown config key {key}.{hint} Valid under {parent or 'the top level'}: {valid}."
