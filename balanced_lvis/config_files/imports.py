"""Modules that configs import, which register activations, calibrations and samplers from outside the package."""

from __future__ import annotations

import argparse
import ast
import importlib
import os
import re
import reprlib
import sys
import traceback
from collections.abc import Iterable

from ..utils.errors import InputError
from ..utils.text import one_line

KEY = "IMPORTS"
_PACKAGE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "")
_SHORT = reprlib.Repr()  # its work is limited, unlike that of repr: aliases can make a small file a long list
_SHORT.maxstring = _SHORT.maxother = 100
_MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


def module_names(value, source: str) -> tuple[str, ...]:
    """
    The value of ``IMPORTS`` as module names.

    Args:
        value: a name, a list or tuple of names, or such a list or tuple written as a string.
        source: where the value comes from, for the message.

    Raises:
        InputError: if the value is anything else.
    """
    names = _literal(value) if isinstance(value, str) else value
    names = (names,) if isinstance(names, str) else names
    if not isinstance(names, (list, tuple)) or not all(isinstance(n, str) and _MODULE.fullmatch(n) for n in names):
        raise InputError(
            f"{source}: {KEY} is {one_line(_SHORT.repr(value))[:200]}; it must list names of Python modules, such as "
            "('my_package.my_method',)."
        )
    return tuple(names)


def _literal(value: str):
    """The value of a Python literal, such as a tuple in a yaml file; other strings are returned unchanged."""
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return value


def import_modules(names: Iterable[str], source: str = KEY) -> None:
    """
    Import modules, found as by ``python -m``: on ``sys.path``, then in the current folder.

    Args:
        names: dotted module names.
        source: where the names come from, for messages.

    Raises:
        InputError: if a module is not found or raises an error on import.
    """
    for name in names:
        _import(name, source)


def _import(name: str, source: str) -> None:
    # Last, so that files in the current folder don't hide installed modules. Processes that are started later inherit
    # the path.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    importlib.invalidate_caches()
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise _failed(name, source, error) from error
        raise InputError(
            f"{source}: module {name!r} was not found ({error}). Install its package, add its folder to PYTHONPATH, or "
            f"run from the folder that contains it; looked in {os.getcwd()} and on sys.path."
        ) from error
    except Exception as error:
        raise _failed(name, source, error) from error


def _failed(name: str, source: str, error: Exception) -> InputError:
    frames = traceback.extract_tb(error.__traceback__)
    # Errors that this package raises are located where the module calls it.
    frame = [frame for frame in frames if not frame.filename.startswith(_PACKAGE)][-1]
    where = f"{frame.filename}, line {frame.lineno}"
    if isinstance(error, SyntaxError):
        where = f"{error.filename}, line {error.lineno}"
    kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
    message = one_line(f"{kind}{error}").removesuffix(".")
    return InputError(f"{source}: module {name!r} failed on import ({where}): {message}. Fix the module.")


def add_import_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--import MODULE``, which may be given several times, as ``imports`` of the parsed arguments."""
    parser.add_argument(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="MODULE",
        help="import a Python module that registers activations, calibrations or samplers; may be repeated. Same as "
        "IMPORTS in the config",
    )


def import_overrides(names: Iterable[str]) -> list[str]:
    """
    ``--import`` as config overrides, which reach all configs and processes.

    Args:
        names: of :func:`add_import_argument`.

    Raises:
        InputError: for a name that no module can have.
    """
    names = module_names(tuple(names), "--import")
    return [KEY, repr(names)] if names else []
