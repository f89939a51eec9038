"""
Makes ``import detectron2`` import the official Detectron2 or its copy.

This is the only module that distinguishes the two:

* the official one, installed under its own name, which takes precedence;
* the pure-Python copy of Detectron2 0.6 that the PyPI wheel ``LabGym`` carries as ``LabGym.detectron2``. Mask R-CNN
  needs none of Detectron2's compiled operators, so this copy trains and evaluates without a compiler.

All other code imports ``detectron2``.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import warnings

_NAME = "detectron2"
_CARRIER = "LabGym"
# Environment variable: importing balanced_lvis does not import Detectron2, as image classification needs none of it.
SKIP = "BALANCED_LVIS_SKIP_DETECTRON2"

MISSING = (
    "balanced_lvis needs Detectron2, and none is installed. Install the official one (compiles, about 10 minutes):\n"
    "  pip install --no-build-isolation 'git+https://github.com/facebookresearch/detectron2.git'   "
    "or its pure-Python copy: pip install --no-deps --ignore-requires-python LabGym==3.1.2"
)


class _AliasLoader(importlib.abc.Loader):
    """Returns the module of another name instead of creating a new one."""

    def __init__(self, real_name: str):
        self.real_name = real_name

    def create_module(self, spec):
        module = importlib.import_module(self.real_name)
        self._real_spec = module.__spec__
        return module

    def exec_module(self, module):
        # The import system has set the spec of the alias on the module, which was executed under its real name.
        module.__spec__ = self._real_spec


class _AliasFinder(importlib.abc.MetaPathFinder):
    """
    Finds the module objects of the copy for ``detectron2`` and ``detectron2.x.y``.

    It must come first in ``sys.meta_path``: further down, ``detectron2.x`` would be found through the parent's
    ``__path__`` and executed a second time, and Detectron2's registries refuse a second registration.
    """

    def find_spec(self, fullname, path=None, target=None):
        if fullname != _NAME and not fullname.startswith(_NAME + "."):
            return None
        real_name = f"{_CARRIER}.{fullname}"
        try:
            real_spec = importlib.util.find_spec(real_name)
        except ModuleNotFoundError:
            real_spec = None
        if real_spec is None:
            return None
        return importlib.machinery.ModuleSpec(
            fullname, _AliasLoader(real_name), is_package=real_spec.submodule_search_locations is not None
        )


def _findable(name: str) -> bool:
    try:
        spec = importlib.util.find_spec(name)
        # A folder of that name, such as a clone of the repository, is a namespace package without an origin.
        return spec is not None and spec.origin is not None
    except (ModuleNotFoundError, ValueError):
        return False


def install() -> bool:
    """
    Make ``import detectron2`` work if any Detectron2 is installed.

    Returns:
        whether a Detectron2 is installed. Further calls change nothing.
    """
    if _findable(_NAME):
        return True
    if not _findable(f"{_CARRIER}.{_NAME}"):
        return False
    sys.meta_path.insert(0, _AliasFinder())
    return True


def is_imported() -> bool:
    """Whether this process has imported Detectron2, as importing balanced_lvis does unless :data:`SKIP` is set."""
    return _NAME in sys.modules


def require() -> None:
    """
    Raises:
        ImportError: if no Detectron2 is installed; the message has the commands that install one.
    """
    if not install():
        raise ImportError(MISSING)


def is_official() -> bool:
    """Whether ``detectron2`` is the official package rather than the copy."""
    return logger_name() == _NAME


def logger_name() -> str:
    """The root of the names of Detectron2's loggers, which differs between the two."""
    return importlib.import_module(_NAME).__name__


def import_quietly() -> None:
    """
    Import Detectron2 without its import-time deprecation warnings.

    They concern code that users of balanced_lvis can't change. All other warnings are shown.
    """
    require()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=DeprecationWarning)
        warnings.simplefilter("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", message="pkg_resources is deprecated")
        for name in ("config", "data", "data.datasets", "modeling", "engine", "evaluation", "model_zoo"):
            importlib.import_module(f"{_NAME}.{name}")
