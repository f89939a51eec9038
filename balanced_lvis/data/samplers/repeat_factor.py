"""Repeat factor sampling (Gupta et al., CVPR 2019), also with instance counts (Yaman et al., 2023)."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from detectron2.data.samplers import RepeatFactorTrainingSampler
from torch import Tensor

from ...priors import ClassLists, ClassPrior, HasClassLists
from ...utils.errors import InputError
from .base import Detectron2Sampler
from .sampler_registry import class_names_from_config, register_sampler

logger = logging.getLogger(__name__)

POWER = 0.5  # the square root of both papers
_RFS, _IRFS = "RepeatFactorTrainingSampler", "InstanceAwareRepeatFactorTrainingSampler"


def class_repeat_factors(prior: ClassPrior, threshold: float, by: str = "image", power: float = POWER) -> np.ndarray:
    """
    How often images of each class are shown per epoch, 1 for once: r_c = max(1, (t / f_c)^power).

    A count of zero is taken as half a count, as in :class:`ClassPrior`.

    Args:
        prior: counts of the training set.
        threshold: t in [0, 1], the frequency below which classes are repeated; 0 repeats none. LVIS uses 0.001.
        by: "image": f_c is the fraction of training images that contain class c (repeat factor sampling, Gupta et al.
            2019). "image_and_instance": f_c is the geometric mean of that and of the class's fraction of all instances
            (IRFS, Yaman et al. 2023).
        power: exponent, 0 or more; 0.5 is the square root of the papers, 0 repeats nothing, and 1 shows all classes
            below the threshold about equally often.

    Returns:
        (K,) float64.

    Raises:
        InputError: if ``threshold`` is outside [0, 1], ``power`` is negative or not finite, or ``by`` is unknown, or
            for "image_and_instance" if the prior has no instance counts.
    """
    if not 0 <= threshold <= 1:
        raise InputError(f"The repeat threshold is {threshold}; it must be a frequency from 0 to 1 (LVIS uses 0.001).")
    _check_power(power, "The power of repeat factors")
    if by not in ("image", "image_and_instance"):
        raise InputError(f"by is {by!r}; valid: 'image', 'image_and_instance'.")
    # Not prior.image_frequency(), which also lowers classes that are in every image, to keep log-odds finite.
    frequency = np.maximum(prior.image_count, 0.5) / prior.num_images
    if by == "image_and_instance":
        instances = prior.instance_count
        if instances is None:
            raise InputError(
                "by is 'image_and_instance', but this class prior has image counts only; use 'image', or a prior "
                "computed from the annotations."
            )
        frequency = np.sqrt(frequency * (np.maximum(instances, 0.5) / max(instances.sum(), 1)))
    factor = threshold / frequency
    # np.sqrt, because a power of 0.5 can differ from Detectron2's square root in the last digit.
    return np.maximum(1.0, np.sqrt(factor) if power == POWER else factor**power)


def image_repeat_factors(dataset_dicts: Sequence[Mapping] | HasClassLists, class_factors: np.ndarray) -> Tensor:
    """
    How often each image is shown per epoch.

    Args:
        dataset_dicts: N images in Detectron2's standard format, or a dataset with class lists. Crowd regions don't
            count.
        class_factors: (K,) from :func:`class_repeat_factors`.

    Returns:
        (N,) float32: the largest factor of the classes in the image, 1 for an image without any.

    Raises:
        InputError: if a ``category_id`` is outside 0..K-1.
    """
    lists = ClassLists.of(dataset_dicts)
    lists.check(len(class_factors))
    factors = np.ones(lists.num_images, np.float32)
    starts, ends = lists.first[:-1], lists.first[1:]
    # The instances of an image end where those of the next image begin, as reduceat expects.
    occupied = starts < ends
    factors[occupied] = np.maximum.reduceat(class_factors[lists.classes], starts[occupied])
    return torch.from_numpy(factors)


class InstanceAwareRepeatFactorTrainingSampler(Detectron2Sampler):
    """
    Detectron2's repeat factor sampling with IRFS's factors, f_c = sqrt(share of images x share of instances).

    Args:
        dataset_dicts: N images in Detectron2's standard format, or a dataset with class lists.
        class_names: the K class names in the order of ``category_id``.
        threshold: t in [0, 1] of :func:`class_repeat_factors`.
        seed: as in :class:`.base.ResumableSampler`.
        power: exponent of :func:`class_repeat_factors`.

    Attributes:
        repeat_factors: (N,) float32.

    Raises:
        InputError: if there are no images, a ``category_id`` is outside 0..K-1, the threshold outside [0, 1] or the
            power negative.
    """

    def __init__(
        self,
        dataset_dicts: Sequence[Mapping] | HasClassLists,
        class_names: Sequence[str],
        threshold: float,
        seed: int | None = None,
        *,
        power: float = POWER,
    ):
        self.repeat_factors = _factors_by_instances(dataset_dicts, class_names, threshold, power)
        super().__init__(functools.partial(RepeatFactorTrainingSampler, self.repeat_factors), seed)


def _repeat_factors(cfg, dataset_dicts, *, power: float = POWER) -> Tensor:
    threshold, power = _threshold_of(cfg), _power_of(cfg, _RFS, power)
    if isinstance(dataset_dicts, HasClassLists):
        prior = ClassPrior.from_dataset_dicts(dataset_dicts, class_names_from_config(cfg))
        return image_repeat_factors(dataset_dicts, class_repeat_factors(prior, threshold, power=power))
    # Detectron2's factors count crowd regions, too.
    stock = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency
    if not _has_sqrt(cfg):
        return stock(dataset_dicts, threshold, sqrt=False)
    factors = stock(dataset_dicts, threshold)
    # max(1, sqrt(x))^(2 power) = max(1, x^power)
    return factors if power == POWER else (factors.double() ** (2 * power)).float()


def _instance_aware_factors(cfg, dataset_dicts, *, power: float = POWER) -> Tensor:
    names = class_names_from_config(cfg)
    return _factors_by_instances(dataset_dicts, names, _threshold_of(cfg), _power_of(cfg, _IRFS, power))


def _factors_by_instances(dataset_dicts, class_names: Sequence[str], threshold: float, power: float) -> Tensor:
    prior = ClassPrior.from_dataset_dicts(dataset_dicts, class_names)
    return image_repeat_factors(dataset_dicts, class_repeat_factors(prior, threshold, "image_and_instance", power))


@register_sampler(_RFS, shown=_repeat_factors)
def _repeat_factor(cfg, dataset_dicts, *, power: float = POWER):
    factors = _repeat_factors(cfg, dataset_dicts, power=power)
    return Detectron2Sampler(functools.partial(RepeatFactorTrainingSampler, factors))


@register_sampler(_IRFS, shown=_instance_aware_factors)
def _instance_aware(cfg, dataset_dicts, *, power: float = POWER):
    names, power = class_names_from_config(cfg), _power_of(cfg, _IRFS, power)
    return InstanceAwareRepeatFactorTrainingSampler(dataset_dicts, names, _threshold_of(cfg), power=power)


def _threshold_of(cfg) -> float:
    threshold = cfg.DATALOADER.REPEAT_THRESHOLD
    if not 0 <= threshold <= 1:
        raise InputError(
            f"DATALOADER.REPEAT_THRESHOLD is {threshold}; it must be a frequency from 0 to 1 (LVIS uses 0.001)."
        )
    if threshold == 0:
        logger.warning("DATALOADER.REPEAT_THRESHOLD is 0, Detectron2's default: no image is repeated. LVIS uses 0.001.")
    return threshold


def _power_of(cfg, sampler: str, power: float) -> float:
    key = f"DATALOADER.SAMPLER.{sampler.upper()}.POWER"
    _check_power(power, key)
    if _has_sqrt(cfg):
        return power
    if power not in (POWER, 1):
        raise InputError(f"{key} is {power:g}, but DATALOADER.REPEAT_SQRT False stands for 1; set REPEAT_SQRT to True.")
    return 1.0


def _has_sqrt(cfg) -> bool:
    """Newer versions of Detectron2 can leave out the square root."""
    return cfg.DATALOADER.get("REPEAT_SQRT", True)


def _check_power(power: float, name: str) -> None:
    if not 0 <= power < math.inf:
        raise InputError(f"{name} is {power}; it must be 0 or more (the papers use 0.5).")
