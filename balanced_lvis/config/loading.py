"""Loading of detection configs from config files and command-line overrides."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping

from detectron2.config import CfgNode as CN
from detectron2.config import downgrade_config, upgrade_config
from detectron2.config.compat import guess_version

from ..config_files.imports import KEY as IMPORTS
from ..config_files.imports import import_modules, module_names
from ..config_files.merging import flat_list, merged_config, set_value
from ..config_files.names import config_path, is_lazy_file
from ..lazy_config.files import load_lazy
from ..utils.errors import InputError
from ..utils.user_paths import expand_values, path_of
from .defaults import default_config

logger = logging.getLogger(__name__)

# Overrides that commands add, or that are the same for all configs: KEY VALUE for a LazyConfig, too.
_PAIRS = (IMPORTS, "MODEL.WEIGHTS", "OUTPUT_DIR", "DATASETS.TEST")


def load_config(config_file: str | os.PathLike = "", opts: Iterable = ()) -> CN:
    """
    Load a config file and command-line overrides into a full config.

    Modules listed under ``IMPORTS``, in the file, its bases and the overrides together, are imported first.

    Args:
        config_file: path of a yaml file or of a LazyConfig (Python code, which runs), or name of a config that comes
            with balanced_lvis (:func:`balanced_lvis.config_files.names.config_path`); empty for the defaults.
        opts: ``KEY VALUE`` pairs, flat; values are text, as on the command line, or Python values. For a LazyConfig,
            words ``key=value``, and pairs of MODEL.WEIGHTS, OUTPUT_DIR and DATASETS.TEST.

    In both, and in the values of the config, a path may begin with ~.

    Raises:
        InputError: if a file is missing or malformed, a module can't be imported, a key is unknown (naming the closest
            valid ones) or a value has the wrong type.
    """
    path = config_path(path_of(config_file, "config_file")) if config_file else ""
    if is_lazy_file(path):
        return _of_lazy(path, flat_list(opts))
    return merged_config(default_config, path, opts, _merge, _add_custom_dataset, run_lazy)


def run_lazy(content: Mapping) -> None:
    """
    Run the LazyConfig that a config was made from, if any: it may register methods.

    Args:
        content: a config, or the content of a yaml file.
    """
    node = content.get("LAZY")
    if not isinstance(node, Mapping) or not isinstance(file := node.get("FILE"), str) or not file:
        return  # if it is invalid, merging reports it
    overrides = node.get("OVERRIDES", ())
    load_lazy(file, tuple(map(str, overrides)) if isinstance(overrides, (list, tuple)) else ())


def _of_lazy(path: str, opts: list) -> CN:
    from .lazy import config_of_lazy  # imports samplers and heads

    pairs, words = _pairs_apart(opts)
    imports = tuple(name for key, value in pairs if key == IMPORTS for name in module_names(value, "--import"))
    import_modules(imports, "--import")
    cfg = config_of_lazy(os.path.abspath(path), words, default_config)
    for key, value in pairs:
        if key != IMPORTS:
            set_value(cfg, key, value, key)
    cfg.IMPORTS = imports
    expand_values(cfg)
    return cfg


def _pairs_apart(opts: list) -> tuple[list[tuple[str, object]], list[str]]:
    """The pairs of :data:`_PAIRS`, and all other overrides."""
    pairs, words = [], []
    rest = iter(opts)
    for word in rest:
        if word not in _PAIRS:
            words.append(str(word))
            continue
        try:
            pairs.append((word, next(rest)))
        except StopIteration:
            raise InputError(f"{word} is the last override; add its value.") from None
    return pairs, words


def _merge(cfg: CN, content: dict, path: str) -> None:
    """As Detectron2's ``merge_from_file``, which would read the file again by other rules for ``_BASE_``."""
    loaded = CN(content)
    version = content.get("VERSION")
    if version is None:
        version = guess_version(loaded, path)
    assert version <= cfg.VERSION, f"Cannot merge a v{version} config into a v{cfg.VERSION} config."
    if version == cfg.VERSION:
        cfg.merge_from_other_cfg(loaded)
        return
    logger.warning("%s: config of version %s, which is upgraded to version %s", path, version, cfg.VERSION)
    old = downgrade_config(cfg, to_version=version)  # with all keys, which the upgrade needs
    old.merge_from_other_cfg(loaded)
    cfg.update(upgrade_config(old))


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
