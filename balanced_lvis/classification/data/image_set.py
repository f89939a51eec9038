"""
Labelled images, and the registry of datasets.

Shape shorthand: N images, K classes, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...priors import ALL, ClassPrior
from ...utils.errors import InputError
from ...utils.registry import Registry

_DATASETS: Registry[type[Dataset]] = Registry("dataset")


@dataclass(frozen=True, eq=False)
class ImageSet:
    """
    Images with labels.

    Args:
        images: N arrays of shape (H, W, 3), uint8; an array of shape (N, H, W, 3), or a sequence that reads files,
            in several threads.
        labels: (N,) int64 in 0..K-1.
        class_names: K names.

    Raises:
        InputError: if lengths differ, or a label is outside 0..K-1.
    """

    images: Sequence[np.ndarray] | np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]

    def __post_init__(self):
        if len(self.images) != len(self.labels):
            raise InputError(f"ImageSet: {len(self.images)} images have {len(self.labels)} labels.")
        outside = (self.labels < 0) | (self.labels >= len(self.class_names))
        if outside.any():
            raise InputError(
                f"ImageSet: label {self.labels[outside][0]} is outside 0..{len(self.class_names) - 1}, the range of "
                "its class names."
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.class_names)

    def counts(self) -> np.ndarray:
        """(K,) int64, the number of images of each class."""
        return np.bincount(self.labels, minlength=self.num_classes)

    def prior(self) -> ClassPrior:
        """Class frequencies; an image is one instance of its class."""
        counts = self.counts()
        return ClassPrior(self.class_names, counts, len(self), counts, counted=ALL)

    def subset(self, indices: np.ndarray) -> ImageSet:
        """The images at ``indices``, in this order."""
        if isinstance(self.images, np.ndarray):
            images: Sequence[np.ndarray] | np.ndarray = self.images[indices]
        else:
            images = _Chosen(self.images, indices)
        return ImageSet(images, self.labels[indices], self.class_names)


class _Chosen(Sequence):
    """Some items of a sequence, read when they are needed."""

    def __init__(self, items: Sequence, indices: np.ndarray):
        self._items, self._indices = items, indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index):
        return self._items[int(self._indices[index])]


class Dataset:
    """
    A source of a training set and a test set with the same classes.

    Subclasses declare their options as keyword-only parameters of the constructor, define :meth:`train` and
    :meth:`test`, and register themselves with :func:`register_dataset`.
    """

    def train(self) -> ImageSet:
        """
        Raises:
            InputError: if the data is missing or damaged, naming the remedy.
        """
        raise NotImplementedError

    def test(self) -> ImageSet:
        """
        Raises:
            InputError: as :meth:`train`.
        """
        raise NotImplementedError


def register_dataset(name: str):
    """Class decorator: register a :class:`Dataset` for :func:`build_dataset` and configs."""
    return _DATASETS.register(name)


def dataset_names() -> list[str]:
    """Sorted names of the registered datasets."""
    return list(_DATASETS)


def dataset_class(name: str) -> type[Dataset]:
    """
    Raises:
        InputError: for an unknown name, listing the valid ones.
    """
    return _DATASETS.get(name)


def build_dataset(name: str, **options) -> Dataset:
    """
    Args:
        name: one of :func:`dataset_names`.
        **options: keyword arguments of that dataset.

    Raises:
        InputError: for an unknown name or option.
    """
    return _DATASETS.build(name, **options)
