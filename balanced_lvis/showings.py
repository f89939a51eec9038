"""How often a training sampler shows each class, which is not how often the dataset holds it."""

from __future__ import annotations

import dataclasses

import numpy as np

from .class_lists import ClassLists
from .utils.errors import InputError


@dataclasses.dataclass(frozen=True, eq=False)
class Showings:
    """
    Expected counts of one epoch of a training sampler's stream. They need not be whole numbers.

    Args:
        sampler: what shows the images, such as "RepeatFactorTrainingSampler, threshold 0.001".
        num_images: images shown, N of the stream.
        image_count: (K,) images shown that hold each class.
        instance_count: (K,) instances of each class in the images shown.

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
                f"Showings: image_count has {len(self.image_count)} entries, instance_count {len(self.instance_count)}."
            )
        if self.num_images < 1 or np.any(self.image_count > self.num_images * (1 + 1e-6)):
            raise InputError(
                f"Showings: num_images is {self.num_images:g}; it must be at least 1 and no less than any image_count."
            )

    @classmethod
    def of(cls, sampler: str, lists: ClassLists, times: np.ndarray, num_classes: int) -> Showings:
        """
        Args:
            sampler: as above.
            lists: the classes of N images.
            times: (N,) how often each image is expected to be shown per epoch.
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
        raise InputError(f"Showings: {field} must be finite and >= 0, not {values!r:.200}.")
    array.setflags(write=False)
    return array
