"""The config of a LazyConfig."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence

from detectron2.config import CfgNode as CN
from omegaconf import DictConfig

from ...config_files.merging import merge_mapping
from ...config_files.names import ENGINE
from ...evaluation import LVISEvaluator
from ...lazy_config.files import load_lazy
from ...utils.errors import InputError, did_you_mean
from .keys import DATA, ENGINE_KEYS, HEADS, LAZY, MODEL, TRAIN
from .model import set_model
from .nodes import check_data_and_train, check_nodes
from .sampler import set_sampler
from .values import as_names, called, plain, select, set_key


def config_of_lazy(path: str, overrides: Sequence[str], default_config: Callable[[], CN]) -> CN:
    """
    The config of a LazyConfig.

    Args:
        path: path of the file.
        overrides: words ``key=value``.
        default_config: returns a new config with all keys.

    Raises:
        InputError: if the file or an override is invalid, a node is missing, or a setting is unknown or not supported.
    """
    lazy, cfg = load_lazy(path, overrides), default_config()
    check_nodes(lazy, path)
    check_data_and_train(lazy)
    cfg.LAZY.FILE, cfg.LAZY.OVERRIDES = path, tuple(overrides)
    cfg.MODEL.META_ARCHITECTURE, cfg.SOLVER.OPTIMIZER, cfg.SOLVER.LR_SCHEDULER_NAME = MODEL, LAZY, LAZY
    for key, name in {**TRAIN, **DATA}.items():
        if (value := select(lazy, name)) is not None:
            set_key(cfg, key, as_names(value, name) if key.startswith("DATASETS.") else value, name)
    set_model(cfg, lazy)
    set_sampler(cfg, lazy)
    _set_evaluator(cfg, lazy)
    _set_engine(cfg, lazy, path)
    return cfg


@contextlib.contextmanager
def named_as_in_file(cfg: CN) -> Iterator[None]:
    """Errors about a config that was made from a LazyConfig also have the keys of the LazyConfig."""
    try:
        yield
    except InputError as error:
        names = {**TRAIN, **DATA, **{key: f"model.roi_heads.{name}" for key, (name, _) in HEADS.items()}}
        found = [f"{key} is {name}" for key, name in names.items() if re.search(rf"{re.escape(key)}\b", str(error))]
        if not cfg.LAZY.FILE or not found:
            raise
        raise type(error)(f"{error}\nIn the LazyConfig, {', '.join(found)}.") from error


def _set_evaluator(cfg: CN, lazy: DictConfig) -> None:
    if select(lazy, "dataloader.evaluator") is None:
        return
    called(lazy, "dataloader.evaluator", (LVISEvaluator,))
    unknown = set(lazy.dataloader.evaluator) - {"_target_", "dataset_name", "backend"}
    if unknown:
        raise InputError(
            f"dataloader.evaluator of the LazyConfig sets {', '.join(sorted(unknown))}; only dataset_name and backend "
            "are supported, and the results are written to train.output_dir."
        )
    name = plain(select(lazy, "dataloader.evaluator.dataset_name"))
    if name is not None and as_names(name, "dataloader.evaluator.dataset_name") != cfg.DATASETS.TEST:
        raise InputError(
            f"dataloader.evaluator.dataset_name of the LazyConfig is {name!r}, but dataloader.test.dataset.names is "
            f'{", ".join(cfg.DATASETS.TEST) or "empty"}; set it to "${{..test.dataset.names}}".'
        )
    set_key(cfg, "TEST.LVIS_BACKEND", lazy.dataloader.evaluator.get("backend", cfg.TEST.LVIS_BACKEND),
         "dataloader.evaluator.backend")  # fmt: skip


def _set_engine(cfg: CN, lazy: DictConfig, path: str) -> None:
    content = plain(lazy.get(ENGINE) or {})
    for key in _keys(content):
        if not any(key == valid or key.startswith(f"{valid}.") for valid in ENGINE_KEYS):
            own = {**TRAIN, **DATA}.get(key)
            remedy = (
                f"set {own}" if own else "it exists only in yaml configs, or is a part that the LazyConfig declares"
            )
            raise InputError(
                f"{path}: {ENGINE}.{key} is not supported: {remedy}.{did_you_mean(key, ENGINE_KEYS)} Valid under "
                f"{ENGINE}: {', '.join(ENGINE_KEYS)}."
            )
    merge_mapping(cfg, content, f"{path}: {ENGINE}")


def _keys(content: dict, prefix: str = "") -> Iterator[str]:
    for key, value in content.items():
        if isinstance(value, dict) and value:
            yield from _keys(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"
