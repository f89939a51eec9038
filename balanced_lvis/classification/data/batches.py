"""Batches of training and test images."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ...utils.random_state import seeded
from ..samplers import BatchSampler
from .image_set import ImageSet

_AUGMENTATION = 3  # key of a random stream, as in samplers.py


class BatchLoader:
    """
    Loads and transforms images.

    Args:
        images: the images.
        transform: of a (3, H, W) uint8 image; None for none.
        seed: seed of the run. The transforms of a batch depend on it and on the iteration alone.
    """

    def __init__(self, images: ImageSet, transform: Callable[[Tensor], Tensor] | None = None, seed: int = 0):
        self._images, self._transform, self._seed = images, transform, seed

    @property
    def labels(self) -> np.ndarray:
        """(N,) int64 labels of the images."""
        return self._images.labels

    @property
    def num_classes(self) -> int:
        """K."""
        return self._images.num_classes

    def __call__(self, indices: np.ndarray, *key: int) -> tuple[Tensor, Tensor]:
        """
        Args:
            indices: (B,) positions of images.
            *key: numbers that identify the batch in the run, such as the iteration.

        Returns:
            (B, 3, H, W) uint8 images and (B,) int64 labels.
        """
        labels = torch.from_numpy(self._images.labels[indices])
        arrays = self._images.images
        stacked = arrays[indices] if isinstance(arrays, np.ndarray) else np.stack([arrays[int(i)] for i in indices])
        images = torch.from_numpy(stacked).permute(0, 3, 1, 2)
        if self._transform is not None:
            with seeded(self._seed, _AUGMENTATION, *key):
                images = torch.stack([self._transform(image) for image in images])
        return images, labels


class _Iterations(Dataset):
    """The batch of each iteration, as items of a dataset."""

    def __init__(self, load: BatchLoader, sampler: BatchSampler):
        self._load, self._sampler = load, sampler

    def __getitem__(self, iteration: int):
        return self._load(self._sampler.indices(iteration), iteration)


def training_batches(
    load: BatchLoader, sampler: BatchSampler, start: int, end: int, workers: int, pin: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """
    The batches of the iterations ``start`` to ``end - 1``; the same for any number of workers.

    Args:
        load: loads a batch.
        sampler: chooses its images.
        start, end: iterations.
        workers: number of processes that load batches; 0 to load them in this process.
        pin: whether to copy batches to pinned memory, for a GPU.
    """
    # Its own generator: otherwise each start of a loader draws from the global one, and a resumed run would differ.
    yield from DataLoader(
        _Iterations(load, sampler),
        batch_size=None,
        sampler=list(range(start, end)),
        num_workers=workers,
        pin_memory=pin,
        generator=torch.Generator(),
    )


def ordered_batches(images: ImageSet, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """All images in order, ``size`` at a time; the last batch can be smaller."""
    load = BatchLoader(images)
    for start in range(0, len(images), size):
        yield load(np.arange(start, min(start + size, len(images))))
