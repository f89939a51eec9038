"""The sampler of a LazyConfig's training loader as config keys."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from detectron2.config import CfgNode as CN
from detectron2.data.samplers import RepeatFactorTrainingSampler, TrainingSampler
from omegaconf import DictConfig

from ...config_files.names import ENGINE
from ...data.samplers import ClassAwareTrainingSampler, InstanceAwareRepeatFactorTrainingSampler
from ...lazy_config.files import target_of
from ...utils.errors import InputError, did_you_mean
from .values import plain, select, set_key


def set_sampler(cfg: CN, lazy: DictConfig) -> None:
    """The sampler of the training images; without one, each image once per epoch, as in Detectron2's LazyConfigs."""
    node = select(lazy, "dataloader.train.sampler")
    own = select(lazy, f"{ENGINE}.DATALOADER.SAMPLER_TRAIN")
    if node is None:
        cfg.DATALOADER.SAMPLER_TRAIN = TrainingSampler.__name__
        return
    if own:
        raise InputError(
            f"{ENGINE}.DATALOADER.SAMPLER_TRAIN is {own!r}, but dataloader.train.sampler is set too; keep one."
        )
    target = target_of(node) if isinstance(node, DictConfig) and "_target_" in node else node
    if target not in (*_SAMPLERS,):  # a tuple, as the value may not be hashable
        raise InputError(
            f"dataloader.train.sampler of the LazyConfig is {getattr(target, '__name__', target)}, which can't be "
            f"resumed; valid: {', '.join(cls.__name__ for cls in _SAMPLERS)}, or a registered sampler in "
            f"{ENGINE}.DATALOADER.SAMPLER_TRAIN."
        )
    cfg.DATALOADER.SAMPLER_TRAIN = target.__name__
    for name in _sampler_arguments(node):
        value, where = select(node, name), f"dataloader.train.sampler.{name}"
        if name in _SAMPLERS[target]:
            if (key := _SAMPLERS[target][name]) is not None and value is not None:
                if (other := select(lazy, f"{ENGINE}.{key}")) is not None:
                    raise InputError(
                        f"{ENGINE}.{key} is {other!r}, but {where} is set too; remove the first, or set "
                        f"{where}={other} instead."
                    )
                set_key(cfg, key, value, where)
        elif name not in _FIXED or value != _FIXED[name][0]:
            valid = [*_SAMPLERS[target], *_FIXED]
            remedy = _FIXED[name][1] if name in _FIXED else f"remove it.{did_you_mean(name, valid)}"
            raise InputError(f"{where} of the LazyConfig is {plain(value)!r}, which is not supported: {remedy}")


def _sampler_arguments(node: DictConfig) -> Iterator[str]:
    """Names of the arguments of a sampler, those of its repeat factors below ``repeat_factors``."""
    for name in map(str, node):
        if name != "repeat_factors":
            yield from () if name == "_target_" else (name,)
            continue
        factors, stock = node[name], RepeatFactorTrainingSampler.repeat_factors_from_category_frequency
        if not isinstance(factors, DictConfig) or "_target_" not in factors or target_of(factors) is not stock:
            raise InputError(
                "dataloader.train.sampler.repeat_factors of the LazyConfig must be "
                f"L(RepeatFactorTrainingSampler.{stock.__name__})(...): its threshold is read."
            )
        yield from (f"{name}.{argument}" for argument in map(str, factors) if argument != "_target_")


# {class: {argument: config key}}; None for arguments that describe the dataset, which the engine gives.
_SAMPLERS: dict[Any, dict[str, str | None]] = {
    TrainingSampler: {"size": None},
    RepeatFactorTrainingSampler: {
        "repeat_factors.dataset_dicts": None,
        "repeat_factors.repeat_thresh": "DATALOADER.REPEAT_THRESHOLD",
    },
    InstanceAwareRepeatFactorTrainingSampler: {
        "dataset_dicts": None,
        "class_names": None,
        "threshold": "DATALOADER.REPEAT_THRESHOLD",
        "power": "DATALOADER.SAMPLER.INSTANCEAWAREREPEATFACTORTRAININGSAMPLER.POWER",
    },
    ClassAwareTrainingSampler: {"dataset_dicts": None, "classes": None},
}
# Other arguments of samplers: {argument: (the only value, remedy for others)}.
_FIXED: dict[str, tuple[Any, str]] = {
    "shuffle": (True, "images are always shuffled; remove it."),
    "seed": (None, "set train.seed."),
    "repeat_factors.sqrt": (
        True, f"set {ENGINE}.DATALOADER.SAMPLER.REPEATFACTORTRAININGSAMPLER.POWER to 1 to leave out the square root.",
    ),
}  # fmt: skip
