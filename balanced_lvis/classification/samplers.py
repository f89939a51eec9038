"""
Samplers: which training images make the batch of an iteration.

A batch is a function of the seed and the iteration alone, so a resumed run sees the batches of an uninterrupted one,
and any worker can load any batch. Those of detection are endless streams, as Detectron2's are, and resume at a
position.

The class-balanced sampler draws classes independently, as class-balanced sampling is defined in the literature. The one
of detection (``ClassAwareTrainingSampler``) cycles through all classes in a random order, so each class has the same
number of turns within a cycle; here, it has so only in expectation.
"""

from __future__ import annotations

import functools

import numpy as np

from ..utils.random_state import seed_of
from ..utils.registry import Registry

SAMPLERS: Registry[type[BatchSampler]] = Registry("sampler")
# Keys of independent random streams of a run.
_EPOCHS, _CLASSES = 1, 2


class BatchSampler:
    """
    Args:
        labels: (N,) int64, the labels of the training set.
        num_classes: K.
        batch_size: B.
        seed: seed of the run.
    """

    def __init__(self, labels: np.ndarray, num_classes: int, batch_size: int, seed: int):
        self.labels, self.num_classes, self.batch_size, self.seed = labels, num_classes, batch_size, seed

    def indices(self, iteration: int) -> np.ndarray:
        """
        Args:
            iteration: from 0.

        Returns:
            (B,) int64, positions in the training set.
        """
        raise NotImplementedError


@SAMPLERS.register("instance")
class InstanceSampler(BatchSampler):
    """Every image once per epoch, in a new order each time; batches continue from one epoch to the next."""

    def indices(self, iteration):
        size = len(self.labels)
        positions = np.arange(iteration * self.batch_size, (iteration + 1) * self.batch_size)
        epochs = range(int(positions[0]) // size, int(positions[-1]) // size + 1)
        return np.concatenate([_order(size, self.seed, e)[positions[positions // size == e] % size] for e in epochs])


@functools.lru_cache(maxsize=4)
def _order(size: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng(seed_of(seed, _EPOCHS, epoch)).permutation(size)


@SAMPLERS.register("class_balanced")
class ClassBalancedSampler(BatchSampler):
    """A class uniformly, then one of its images uniformly (CBS); classes without images are left out."""

    def __init__(self, labels: np.ndarray, num_classes: int, batch_size: int, seed: int):
        super().__init__(labels, num_classes, batch_size, seed)
        self.of_class = [found for found in images_by_class(labels, num_classes) if len(found)]

    def indices(self, iteration):
        rng = np.random.default_rng(seed_of(self.seed, _CLASSES, iteration))
        classes = rng.integers(len(self.of_class), size=self.batch_size)
        at = rng.random(self.batch_size)
        return np.array([self.of_class[c][int(u * len(self.of_class[c]))] for c, u in zip(classes, at)], np.int64)


def images_by_class(labels: np.ndarray, num_classes: int) -> list[np.ndarray]:
    """For each of K = ``num_classes`` classes, the (n_j,) positions of its images, in order."""
    return [np.flatnonzero(labels == label) for label in range(num_classes)]
