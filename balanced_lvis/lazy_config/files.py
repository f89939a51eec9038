"""LazyConfigs: Detectron2's Python configs, with overrides ``key=value``, and clear errors."""

from __future__ import annotations

import builtins
import contextlib
import copy
import functools
import inspect
import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from .. import _detectron2
from ..config_files.names import ENGINE
from ..utils.errors import InputError, did_you_mean
from ..utils.text import one_line

OFFICIAL = "install the official Detectron2: make setup DETECTRON2=<folder or address of its repository>"
_TARGET = "_target_"
_CHECKED_LATER = (ENGINE, "train")  # their keys may be left out, and are checked where they become config keys


def lazy_config(cfg) -> Any:
    """
    The LazyConfig that a config was made from, as a new ``DictConfig``.

    Raises:
        InputError: if the config was made from none, or its file can't be read any more.
    """
    node = cfg.get("LAZY", {})
    if not node.get("FILE"):
        raise InputError("The model, optimizer or schedule is that of a LazyConfig, but LAZY.FILE is empty; name it.")
    return load_lazy(node.FILE, tuple(node.OVERRIDES))


def load_lazy(path: str, overrides: Sequence[str] = ()) -> Any:
    """
    Run a LazyConfig and apply overrides.

    A file is run once per process with the same overrides, so that all parts of a run are of the same content.

    Args:
        path: path of the file.
        overrides: words ``key=value`` in the syntax of Hydra, as in Detectron2.

    Returns:
        a ``DictConfig`` of the file's top-level dictionaries, which the caller may change.

    Raises:
        InputError: if the file doesn't exist or fails, or an override is malformed or names an unknown key.
    """
    return copy.deepcopy(_loaded(os.path.abspath(path), tuple(overrides)))


@functools.lru_cache(maxsize=16)
def _loaded(path: str, overrides: tuple[str, ...]):
    from detectron2.config import LazyConfig

    if not os.path.isfile(path):
        raise InputError(
            f"The LazyConfig {path!r} doesn't exist. If it was moved, pass its new path as --config-file, with the "
            "same overrides."
        )
    with _explained(path):
        lazy = LazyConfig.load(path)
    for word in overrides:
        _apply(lazy, word, path)
    return lazy


def build_part(lazy, name: str, path: str) -> Any:
    """
    Build a part of a LazyConfig.

    Args:
        lazy: the LazyConfig.
        name: key of the part, such as "model".
        path: file of the LazyConfig, for messages.

    Raises:
        InputError: if it can't be built: a package is missing, or an argument is unknown or invalid.
    """
    from detectron2.config import instantiate
    from omegaconf import OmegaConf

    with _explained(path, f"{name} can't be built"):
        return instantiate(OmegaConf.select(lazy, name))


# ---------------------------------------------------------------------- errors of the file


@contextlib.contextmanager
def _explained(path: str, what: str = "") -> Iterator[None]:
    """Turns any error of the file's code into an InputError with its place and a remedy."""
    import_function = builtins.__import__
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        message = one_line(str(error)).removesuffix(".")
        where = ": ".join(filter(None, [_place(error, path), what]))
        raise InputError(f"{where}: {type(error).__name__}: {message}. {_remedy(error)}") from error
    finally:
        builtins.__import__ = import_function  # Detectron2 replaces it, and an error leaves it replaced


def _place(error: BaseException, path: str) -> str:
    cause = error.__cause__ or error
    if isinstance(cause, SyntaxError):
        return f"{cause.filename if os.path.exists(str(cause.filename)) else path}, line {cause.lineno}"
    # Configs are run by Detectron2 and have no other place in a module search.
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.name == "<module>"]
    return f"{frames[-1].filename}, line {frames[-1].lineno}" if frames else path


def _remedy(error: Exception) -> str:
    missing = getattr(error, "name", None) or ""
    of_detectron2 = "detectron2" in missing.split(".") or "Model Zoo" in str(error)
    if of_detectron2 and not _detectron2.is_official():
        return (
            "The installed Detectron2 is LabGym's copy of version 0.6, which lacks files of newer versions: "
            f"{OFFICIAL}."
        )
    if of_detectron2:
        return "The installed Detectron2 doesn't have it: install a newer version."
    if isinstance(error, ModuleNotFoundError):
        return f"Install the package: pip install {missing.split('.')[0]}."
    return "Fix the config file."


# ---------------------------------------------------------------------- overrides


def _apply(lazy, word: str, path: str) -> None:
    from detectron2.config import LazyConfig

    key, separator, _ = str(word).partition("=")
    if word.startswith("--"):
        raise InputError(f"{word[:80]} comes after overrides of the config; put it before the first of them.")
    if not separator:
        raise InputError(
            f"{path} is a LazyConfig, whose overrides are key=value, such as train.max_iter=1000; {word[:200]!r} is "
            "not. KEY VALUE pairs are for yaml configs."
        )
    _check_key(lazy, key.lstrip("+"), path)
    try:
        LazyConfig.apply_overrides(lazy, [word])
    except Exception as error:
        raise InputError(
            f"Override {word[:200]!r}: {one_line(str(error))[:300]}. Put values with special characters in quotes: "
            f"'{key}=\"...\"'."
        ) from error


def _check_key(lazy, key: str, path: str) -> None:
    """
    Raises:
        InputError: for a key that neither the config nor the arguments of what it calls have.
    """
    from omegaconf import DictConfig, ListConfig

    parts = key.split(".")
    node = lazy
    for at, part in enumerate(parts):
        if at == 1 and parts[0] in _CHECKED_LATER:
            return
        if isinstance(node, ListConfig) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
        elif isinstance(node, DictConfig) and part in node:
            node = node[part]
        elif (not at and part == ENGINE) or _is_argument(node, part):
            return
        else:
            above = ".".join(parts[:at])
            valid = sorted(map(str, node)) if isinstance(node, DictConfig) else []
            raise InputError(
                f"Override {key}=...: {path} has no key {'.'.join(parts[: at + 1])}.{did_you_mean(part, valid)} Valid "
                f"under {above or 'the top level'}: {', '.join(valid) or 'none, as it is a value'}."
            )


def _is_argument(node, name: str) -> bool:
    from omegaconf import DictConfig

    return isinstance(node, DictConfig) and _TARGET in node and name in arguments_of(target_of(node))


def target_of(node) -> Callable:
    """What a node calls; a name is imported."""
    from detectron2.utils.registry import locate

    target = node[_TARGET]
    return locate(target) if isinstance(target, str) else target


def arguments_of(function: Callable) -> set[str]:
    """Names of the arguments of a function, or of a class and, where it takes ``**kwargs``, its base classes."""
    functions = [function]
    if inspect.isclass(function):
        functions = [vars(base)["__init__"] for base in function.__mro__ if "__init__" in vars(base)]
    names: set[str] = set()
    for each in functions:
        try:
            parameters = inspect.signature(each).parameters.values()
        except (TypeError, ValueError):  # of a builtin
            break
        names.update(p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return names - {"self", "cls"}
