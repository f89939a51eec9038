"""Loading of detection configs from config files and command-line overrides."""

from __future__ import annotations

import os
from collections.abc import Iterable

from detectron2.config import CfgNode as CN

from ..config_files.merging import merged_config
from ..utils.errors import InputError
from .defaults import default_config


def load_config(config_file: str | os.PathLike = "", opts: Iterable = ()) -> CN:
    """
    Load a yaml file and command-line overrides into a full config.

    Modules listed under ``IMPORTS``, in the file, its bases and the overrides together, are imported first.

    Args:
        config_file: path of a yaml file, or name of a config that comes with balanced_lvis
            (:func:`balanced_lvis.config_files.names.config_path`); empty for the defaults.
        opts: ``KEY VALUE`` pairs, flat; values are text, as on the command line, or Python values.

    In both, and in the values of the config, a path may begin with ~.

    Raises:
        InputError: if a file is missing or malformed, a module can't be imported, a key is unknown (naming the closest
            valid ones) or a value has the wrong type.
    """
    return merged_config(default_config, config_file, opts, _merge, _add_custom_dataset)


def _merge(cfg: CN, content: dict, path: str) -> None:
    if content.get("VERSION") == cfg.VERSION:
        cfg.merge_from_other_cfg(CN(content))
    else:  # guesses the version, and upgrades old configs
        cfg.merge_from_file(path, allow_unsafe=False)  # otherwise yaml tags could run any code


def thawed(cfg: CN) -> CN:
    """
    A copy of a config, frozen or not, that can be changed.

    Raises:
        InputError: if it is not a config.
    """
    if not isinstance(cfg, CN):
        raise InputError(f"cfg is of type {type(cfg).__name__}; pass a config from load_config().")
    copy = cfg.clone()
    copy.defrost()
    return copy


def _add_custom_dataset(cfg: CN, key: str) -> None:
    """Add the node of a dataset under DATASETS.CUSTOM: yacs accepts overrides of existing keys only."""
    parent, _, part = key.rpartition(".")
    parent, _, name = parent.rpartition(".")
    if parent == "DATASETS.CUSTOM" and part in ("JSON", "IMAGES"):
        cfg.DATASETS.CUSTOM.setdefault(name, CN()).setdefault(part, "")
