"""Class-aware sampling (Shen et al., ECCV 2016), used by cRT and LWS (Kang et al., ICLR 2020) for classifiers."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from ...priors import ClassLists, HasClassLists
from ...utils.errors import InputError
from ...utils.once import once
from ...utils.text import first_of
from .base import ResumableSampler
from .sampler_registry import class_names_from_config, register_sampler

logger = logging.getLogger(__name__)


class ClassAwareTrainingSampler(ResumableSampler):
    """
    Samples a class uniformly, then one of its images uniformly.

    Each cycle visits all classes that have images once, in random order. The images of a class are taken from a
    shuffled list, which is shuffled again at its end. So classes are exactly uniform over whole cycles, and the images
    of a class are exactly uniform over whole rounds of its list. Images contain other classes too, so that frequent
    classes are still in most images.

    Args:
        dataset_dicts: images in Detectron2's standard format, or a dataset with class lists. Crowd regions
            (``iscrowd``) don't count.
        classes: the K class names in the order of ``category_id``, or K.
        seed: as in :class:`ResumableSampler`.

    Raises:
        InputError: if no class is in any image, or a ``category_id`` is outside 0..K-1. Classes without images are left
            out, and a warning is logged once.
    """

    def __init__(
        self,
        dataset_dicts: Sequence[Mapping] | HasClassLists,
        classes: Sequence[str] | int,
        seed: int | None = None,
    ):
        names = tuple(map(str, range(classes) if isinstance(classes, int) else classes))
        images = ClassLists.of(dataset_dicts).images_by_class(len(names))
        self._images = [indices for indices in images if len(indices)]
        if not self._images:
            raise InputError(
                f"ClassAwareTrainingSampler: none of the {len(names)} classes is in any of the {len(dataset_dicts)} "
                "images; train on a dataset with annotations (crowd regions don't count)."
            )
        absent = tuple(name for name, indices in zip(names, images) if not len(indices))
        if absent:
            _report_absent(absent)
        super().__init__(seed)

    def stream(self):
        generator = torch.Generator()
        generator.manual_seed(self.seed)

        def shuffled(length):
            return torch.randperm(length, generator=generator).numpy()

        # The rest of each class's list, as arrays, which are several times smaller than lists.
        left = [images[:0] for images in self._images]
        while True:
            for index in shuffled(len(self._images)):
                images = self._images[index]
                if not len(left[index]):
                    left[index] = images[shuffled(len(images))]
                yield int(left[index][-1])
                left[index] = left[index][:-1]


@once
def _report_absent(names: tuple[str, ...]) -> None:
    shown = first_of(names, 10)
    logger.warning("%d class(es) are in no training image and can't be sampled: %s.", len(names), shown)


def _times_shown(cfg, dataset_dicts) -> np.ndarray:
    """(N,) for an epoch of N samples: classes have equal shares, and so have the images of a class."""
    images = ClassLists.of(dataset_dicts).images_by_class(len(class_names_from_config(cfg)))
    images = [positions for positions in images if len(positions)]
    times = np.zeros(len(dataset_dicts))
    for positions in images:
        times[positions] += len(dataset_dicts) / (len(images) * len(positions))
    return times


@register_sampler("ClassAwareTrainingSampler", shown=_times_shown)
def _class_aware(cfg, dataset_dicts):
    return ClassAwareTrainingSampler(dataset_dicts, class_names_from_config(cfg))
