"""Class counts of the images that a training sampler shows, which differ from those of the dataset."""

from __future__ import annotations

import dataclasses

import numpy as np

from ..utils.errors import InputError
from .class_lists import ClassLists


@dataclasses.dataclass(frozen=True, eq=False)
class SampledCounts:
    """
    Expected class counts of one epoch of a training sampler. They need not be whole numbers.

    Args:
        sampler: name and options, such as "RepeatFactorTrainingSampler, threshold 0.001".
        num_images: number of images shown, N.
        image_count: (K,) number of images shown that contain each class.
        instance_count: (K,) number of instances of each class in the images shown.

    Raises:
        InputError: if a count is negative or not finite, or lengths differ.
    """

    sampler: str
    num_images: float
    image_count: np.ndarray
    instance_count: np.ndarray

    def __post_init__(self):
        object.__setattr__(self, "num_images", float(_counts("num_images", self.num_images, ndim=0)))
        for field in ("image_count", "instance_count"):
            object.__setattr__(self, field, _counts(field, getattr(self, field), ndim=1))
        if len(self.image_count) != len(self.instance_count):
            raise InputError(
                f"SampledCounts: image_count has {len(self.image_count)} entries and instance_count "
                f"{len(self.instance_count)}; both must have one per class."
            )
        if self.num_images < 1 or np.any(self.image_count > self.num_images * (1 + 1e-6)):
            raise InputError(
                f"SampledCounts: num_images is {self.num_images:g}; it must be at least 1 and "
                "no less than any image_count."
            )

    @classmethod
    def of(cls, sampler: str, lists: ClassLists, times: np.ndarray, num_classes: int) -> SampledCounts:
        """
        Args:
            sampler: name and options.
            lists: class lists of N images.
            times: (N,) expected number of times that each image is shown per epoch.
            num_classes: K.

        Raises:
            InputError: if a class is outside 0..K-1.
        """
        times = np.asarray(times, np.float64)
        images = lists.images_by_class(num_classes)
        per_instance = np.repeat(times, np.diff(lists.first))
        return cls(
            sampler,
            times.sum(),
            np.array([times[positions].sum() for positions in images]),
            np.bincount(lists.classes, per_instance, minlength=num_classes),
        )


def _counts(field: str, values, ndim: int) -> np.ndarray:
    try:
        array = np.array(values, np.float64)
    except (TypeError, ValueError, OverflowError, RecursionError):
        array = np.array(np.nan)
    if array.ndim != ndim or not np.all(np.isfinite(array) & (array >= 0)):
        raise InputError(f"SampledCounts: {field} must be finite and >= 0, not {values!r:.200}.")
    array.setflags(write=False)
    return array
