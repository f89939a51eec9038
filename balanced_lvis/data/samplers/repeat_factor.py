"""Repeat factor sampling (Gupta et al., CVPR 2019), by images and by instances too (Yaman et al., 2023)."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from detectron2.data.samplers import RepeatFactorTrainingSampler
from torch import Tensor

from ...priors import ClassLists, ClassPrior, HasClassLists
from ...utils.errors import InputError
from .base import Detectron2Sampler
from .registry import class_names_from_config, register_sampler

logger = logging.getLogger(__name__)


def image_repeat_factors(dataset_dicts: Sequence[Mapping] | HasClassLists, class_factors: np.ndarray) -> Tensor:
    """
    How often each image is shown per epoch: as often as the rarest of its classes asks for.

    Args:
        dataset_dicts: N images in Detectron2's standard format, or a data set that knows its classes. Crowd regions
            don't count.
        class_factors: (K,) from :meth:`ClassPrior.repeat_factor`.

    Returns:
        (N,) float32: the largest factor of the image's classes, 1 for an image without any.

    Raises:
        InputError: if a ``category_id`` is outside 0..K-1.
    """
    lists = ClassLists.of(dataset_dicts)
    lists.check(len(class_factors))
    factors = np.ones(lists.num_images, np.float32)
    starts, ends = lists.first[:-1], lists.first[1:]
    # An image's instances end where the next image with any begins, which is how reduceat takes them.
    occupied = starts < ends
    factors[occupied] = np.maximum.reduceat(class_factors[lists.classes], starts[occupied])
    return torch.from_numpy(factors)


class InstanceAwareRepeatFactorTrainingSampler(Detectron2Sampler):
    """
    Detectron2's repeat factor sampling with IRFS's factors, f_c = sqrt(share of images x share of instances).

    Args:
        dataset_dicts: N images in Detectron2's standard format, or a data set that knows its classes.
        class_names: the K class names in the order of ``category_id``.
        threshold: t in [0, 1] of :meth:`ClassPrior.repeat_factor`.
        seed: as in :class:`ResumableSampler`.

    Attributes:
        repeat_factors: (N,) float32.

    Raises:
        InputError: if there is no image, a ``category_id`` is outside 0..K-1 or the threshold outside [0, 1].
    """

    def __init__(
        self,
        dataset_dicts: Sequence[Mapping] | HasClassLists,
        class_names: Sequence[str],
        threshold: float,
        seed: int | None = None,
    ):
        self.repeat_factors = _factors_by_instances(dataset_dicts, class_names, threshold)
        super().__init__(functools.partial(RepeatFactorTrainingSampler, self.repeat_factors), seed)


def _repeat_factors(cfg, dataset_dicts) -> Tensor:
    # Later Detectron2s can leave out the square root.
    threshold, sqrt = _threshold_of(cfg), cfg.DATALOADER.get("REPEAT_SQRT", True)
    if isinstance(dataset_dicts, HasClassLists):
        prior = ClassPrior.from_dataset_dicts(dataset_dicts, class_names_from_config(cfg))
        return image_repeat_factors(dataset_dicts, prior.repeat_factor(threshold, sqrt=sqrt))
    return RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
        dataset_dicts, threshold, **({} if sqrt else {"sqrt": False})
    )


def _instance_aware_factors(cfg, dataset_dicts) -> Tensor:
    return _factors_by_instances(dataset_dicts, class_names_from_config(cfg), _threshold_of(cfg))


def _factors_by_instances(dataset_dicts, class_names: Sequence[str], threshold: float) -> Tensor:
    prior = ClassPrior.from_dataset_dicts(dataset_dicts, class_names)
    return image_repeat_factors(dataset_dicts, prior.repeat_factor(threshold, by="image_and_instance"))


@register_sampler("RepeatFactorTrainingSampler", shown=_repeat_factors)
def _repeat_factor(cfg, dataset_dicts):
    return Detectron2Sampler(functools.partial(RepeatFactorTrainingSampler, _repeat_factors(cfg, dataset_dicts)))


@register_sampler("InstanceAwareRepeatFactorTrainingSampler", shown=_instance_aware_factors)
def _instance_aware(cfg, dataset_dicts):
    return InstanceAwareRepeatFactorTrainingSampler(dataset_dicts, class_names_from_config(cfg), _threshold_of(cfg))


def _threshold_of(cfg) -> float:
    threshold = cfg.DATALOADER.REPEAT_THRESHOLD
    if not 0 <= threshold <= 1:
        raise InputError(
            f"DATALOADER.REPEAT_THRESHOLD is {threshold}; it is a frequency, from 0 to 1 (LVIS has 0.001)."
        )
    if threshold == 0:
        logger.warning("DATALOADER.REPEAT_THRESHOLD is 0, Detectron2's default: no image is repeated. LVIS has 0.001.")
    return threshold
