"""The record of a LazyConfig in the folder of a run."""

from __future__ import annotations

import logging
import os
import re

from detectron2.config import CfgNode as CN
from omegaconf import DictConfig, OmegaConf

from ...lazy_config.files import load_lazy
from ...utils.io import write_text
from .keys import WITHOUT_EFFECT
from .values import select

logger = logging.getLogger(__name__)


def record_lazy(cfg: CN, path: str | os.PathLike) -> None:
    """
    Save the LazyConfig that a config was made from, as a record of the run, and log its settings without effect.

    Args:
        cfg: the config; if it was made from a yaml file, nothing is written.
        path: path of the yaml file, which is for readers: commands read the config and the LazyConfig itself.
    """
    if not cfg.LAZY.FILE:
        return
    lazy = load_lazy(cfg.LAZY.FILE, tuple(cfg.LAZY.OVERRIDES))
    write_text(path, OmegaConf.to_yaml(_in_words(lazy)))
    if found := _without_effect(cfg, lazy):
        logger.info("Settings of the LazyConfig without effect: %s", "; ".join(found))


def _without_effect(cfg: CN, lazy: DictConfig) -> list[str]:
    """The settings whose values differ from those that hold, with a reason."""
    workers = cfg.DATALOADER.NUM_WORKERS
    holding = {
        **WITHOUT_EFFECT,
        "dataloader.test.num_workers": (workers, f"dataloader.train.num_workers, {workers}, holds for both loaders"),
    }
    values = {name: select(lazy, name) for name in holding}
    return [f"{name} ({why})" for name, (held, why) in holding.items() if values[name] not in (None, held)]


def _in_words(value):
    """Dictionaries and lists as they are, and anything else that is no plain value as text."""
    value = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
    if isinstance(value, dict):
        return {key: _in_words(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_in_words(part) for part in value]
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    return value if isinstance(value, (str, int, float, type(None))) else re.sub(r" at 0x[0-9a-f]+", "", repr(value))
