"""Lookup by name of the configs that come with balanced_lvis."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from ..utils.errors import InputError
from ..utils.text import one_line
from ..utils.user_paths import why_no_file

_PACKAGE = Path(__file__).resolve().parents[1]
_LAZY = ".py"
_SUFFIXES = (".yaml", _LAZY)  # of yaml configs and LazyConfigs
_PREFIX = "configs/"
_BUILDING_BLOCKS = "base"  # folders with bases of other configs, not to be trained themselves
NODES = ("model", "optimizer", "lr_multiplier", "dataloader", "train")  # what a LazyConfig must have
ENGINE = "engine"  # node of a LazyConfig with options that yaml configs have, under their names there


def is_lazy_file(path: str | os.PathLike) -> bool:
    """Whether a config file is a LazyConfig: Python code."""
    return os.fspath(path).endswith(_LAZY)


def is_lazy_override(word: str) -> bool:
    """Whether a word of a command line is an override of a LazyConfig, such as ``train.max_iter=1000``."""
    key, separator, _ = word.partition("=")
    return bool(separator) and key.lstrip("+").partition(".")[0] in (*NODES, ENGINE)


def config_folder() -> Path:
    """The folder of the configs: in an installed package ``balanced_lvis/configs``, in a checkout ``configs``."""
    installed = _PACKAGE / "configs"
    return installed if installed.is_dir() else _PACKAGE.parent / "configs"


def config_names() -> list[str]:
    """Sorted names of all configs that can be trained, such as ``r50_balanced_sigmoid`` and ``rendered/rfs``."""
    folder = config_folder()
    paths = (path for suffix in _SUFFIXES for path in folder.rglob(f"*{suffix}"))
    names = (path.relative_to(folder).with_suffix("").as_posix() for path in paths)
    return sorted(
        (name for name in names if _BUILDING_BLOCKS not in name.split("/")[:-1]), key=lambda name: ("/" in name, name)
    )


def shipped_config(name: str) -> str | None:
    """
    Args:
        name: name of a config that comes with balanced_lvis, or of one that these build on, such as ``base/lvis_v1``;
            with or without its suffix and a leading ``configs/``.

    Returns:
        its path; None if there is none.
    """
    paths = [config_folder() / f"{_plain(name)}{suffix}" for suffix in _SUFFIXES]
    found = (path for path in paths if path.is_file() and config_folder() in path.parents and ".." not in path.parts)
    return next(map(str, found), None)


def _plain(name: str) -> str:
    name = name.removeprefix("./").removeprefix(_PREFIX)
    return name.removesuffix(next(filter(name.endswith, _SUFFIXES), ""))


def config_path(name_or_path: str | os.PathLike) -> str:
    """
    Args:
        name_or_path: path of a yaml file or a LazyConfig, which takes precedence where it exists, or name of a config
            that comes with balanced_lvis, with or without its suffix and a leading ``configs/``. A path may begin with
            ~.

    Returns:
        the path.

    Raises:
        InputError: if there is neither; similar names are listed.
    """
    path = os.path.expanduser(os.fspath(name_or_path))
    if os.path.isfile(path):
        return path
    if shipped := shipped_config(path):
        return shipped
    if os.path.exists(path):  # a folder or a pipe, which the check of the file explains
        return path
    close = difflib.get_close_matches(_plain(path), config_names(), n=5, cutoff=0.6)
    hint = f"Similar names: {', '.join(close)}." if close else "`balanced-lvis configs` lists the names."
    raise InputError(
        f"--config-file {one_line(path)!r} {why_no_file(path)}, and no config of balanced_lvis has this name. {hint}"
    )
