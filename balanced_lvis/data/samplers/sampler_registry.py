"""Registry of samplers, selected by ``DATALOADER.SAMPLER_TRAIN``."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.data.samplers import TrainingSampler
from torch import Tensor

from ...utils.errors import InputError
from ...utils.keyword_options import chosen_options, keyword_options
from ...utils.registry import Registry
from .base import Detectron2Sampler, ResumableSampler

logger = logging.getLogger(__name__)

# Samplers that only Detectron2 can build, and that can't be resumed.
DETECTRON2_ONLY = ("RandomSubsetTrainingSampler", "WeightedCategoryTrainingSampler", "WeightedTrainingSampler")

# Config keys that these samplers read, which older versions of Detectron2 don't have.
_KEYS = {
    "RandomSubsetTrainingSampler": "DATALOADER.RANDOM_SUBSET_RATIO",
    "WeightedCategoryTrainingSampler": "DATASETS.TRAIN_REPEAT_FACTOR",
    "WeightedTrainingSampler": "DATASETS.TRAIN_REPEAT_FACTOR",
}

_SAMPLERS: Registry[Callable[..., ResumableSampler | None]] = Registry("sampler", "DATALOADER.SAMPLER_TRAIN")
_SHOWN: dict[str, Callable[..., np.ndarray | Tensor]] = {}


def register_sampler(name: str, shown: Callable[..., np.ndarray | Tensor] | None = None):
    """
    Decorator: register a function for :func:`build_sampler`.

    The function takes the config and the images in Detectron2's standard format, and returns a
    :class:`ResumableSampler`. Its keyword-only parameters, with defaults, are the sampler's options: in the config,
    ``DATALOADER.SAMPLER.<NAME>.<OPTION>``, in capitals.

    Args:
        name: name of the sampler.
        shown: takes the same arguments and options, and returns (N,) how often each image is expected to be shown per
            epoch, for :func:`times_shown`. None if that is not known.

    Raises:
        InputError: if the name is registered already.
    """

    def register(build):
        _SAMPLERS.register(name)(build)
        if shown:
            _SHOWN[name] = shown
        return build

    return register


def sampler_names() -> list[str]:
    """Valid values of ``DATALOADER.SAMPLER_TRAIN``, sorted."""
    return list(_SAMPLERS)


def resumable_sampler_names() -> list[str]:
    """Names of the samplers that :func:`build_sampler` returns, sorted."""
    return [name for name in _SAMPLERS if name not in DETECTRON2_ONLY]


def samplers_with_options() -> dict[str, Callable[..., ResumableSampler | None]]:
    """{name: registered function} of the samplers that have options."""
    return {name: _SAMPLERS.get(name) for name in _SAMPLERS if keyword_options(_SAMPLERS.get(name))}


def check_sampler(name: str) -> None:
    """
    Raises:
        InputError: if the name is unknown; the valid ones are listed.
    """
    _SAMPLERS.get(name)


def check_sampler_keys(cfg) -> None:
    """
    Raises:
        InputError: if ``DATALOADER.SAMPLER_TRAIN`` needs a config key that this Detectron2 doesn't have.
    """
    name = cfg.DATALOADER.SAMPLER_TRAIN
    if name not in _KEYS:
        return
    node, key = _KEYS[name].split(".")
    if key not in cfg[node]:
        raise InputError(
            f"DATALOADER.SAMPLER_TRAIN is {name!r}, which needs the config key {_KEYS[name]}; the installed Detectron2 "
            f"doesn't have it. Install a newer one, or use one of {', '.join(resumable_sampler_names())}."
        )


def build_sampler(cfg, dataset_dicts: Sequence[Mapping], name: str | None = None) -> ResumableSampler | None:
    """
    Build a training sampler for Detectron2's ``build_detection_train_loader(..., sampler=)``.

    All processes must call it, because they share a seed.

    Args:
        cfg: the config.
        dataset_dicts: training images in Detectron2's standard format, as the loader has them: indices of the stream
            are positions in it.
        name: name of a sampler to build instead of ``DATALOADER.SAMPLER_TRAIN``.

    Returns:
        the sampler; None if it is one that Detectron2 must build.

    Raises:
        InputError: if the name is unknown, there are no images, or an option is invalid.
    """
    name = cfg.DATALOADER.SAMPLER_TRAIN if name is None else name
    build = _SAMPLERS.get(name)
    if not len(dataset_dicts):
        raise InputError(f"{name}: the training set {', '.join(cfg.DATASETS.TRAIN)} has no images to sample.")
    return build(cfg, dataset_dicts, **sampler_options(cfg, name))


def times_shown(cfg, dataset_dicts: Sequence[Mapping]) -> np.ndarray:
    """
    How often ``DATALOADER.SAMPLER_TRAIN`` is expected to show each image per epoch, without building the sampler.

    Args:
        cfg: as for :func:`build_sampler`.
        dataset_dicts: N training images, as for :func:`build_sampler`.

    Returns:
        (N,) float64.

    Raises:
        InputError: if this is not known for the sampler, and as :func:`build_sampler`.
    """
    name = cfg.DATALOADER.SAMPLER_TRAIN
    check_sampler(name)
    if name not in _SHOWN:
        raise InputError(
            f"MODEL.CLASS_PRIOR.SAMPLED is True, but the sampling frequencies of {name} are unknown; set it to False, "
            f"or DATALOADER.SAMPLER_TRAIN to one of {', '.join(sorted(_SHOWN))}."
        )
    return np.asarray(_SHOWN[name](cfg, dataset_dicts, **sampler_options(cfg, name)), np.float64)


def sampler_options(cfg, name: str, changed: bool = False) -> dict[str, object]:
    """
    The options of a sampler in ``DATALOADER.SAMPLER``, as keyword arguments; empty if it has none.

    Args:
        cfg: the config.
        name: name of the sampler.
        changed: only options that differ from their defaults.
    """
    options = chosen_options(cfg.DATALOADER.get("SAMPLER", {}), name)
    if not changed or not options:
        return options
    defaults = keyword_options(_SAMPLERS.get(name))
    return {option: value for option, value in options.items() if value != defaults[option]}


def class_names_from_config(cfg) -> tuple[str, ...]:
    """Class names of the training set; "0" to "K-1", from ``MODEL.ROI_HEADS.NUM_CLASSES``, if it has none."""
    names = MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).get("thing_classes") if cfg.DATASETS.TRAIN else None
    return tuple(names or map(str, range(cfg.MODEL.ROI_HEADS.NUM_CLASSES)))


def _each_once(cfg, dataset_dicts):
    return np.ones(len(dataset_dicts))


@register_sampler("TrainingSampler", shown=_each_once)
def _uniform(cfg, dataset_dicts):
    return Detectron2Sampler(functools.partial(TrainingSampler, len(dataset_dicts)))


def _register_detectron2_only(name: str) -> None:
    @register_sampler(name)
    def build(cfg, dataset_dicts):
        logger.warning(
            "%s can't be resumed and can't replace broken images: --resume restarts its stream, and a broken image "
            "ends training, whatever DATALOADER.MAX_BROKEN is.",
            name,
        )


for _name in DETECTRON2_ONLY:
    _register_detectron2_only(_name)
