"""
Accuracy on a test set, in all and by training frequency, and the marginal p(y).

Shape shorthand: N test images, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..calibration import LogitStatistics, StatisticsCollector
from ..utils.io import cached_sha256
from .data.batches import ordered_batches
from .data.image_set import ImageSet
from .model import ImageClassifier

# Groups of classes by their number of training images, as in the literature (Liu et al., CVPR 2019).
MANY_MIN = 101
FEW_MAX = 19
GROUPS = ("many", "medium", "few")


def frequency_groups(counts: np.ndarray) -> dict[str, np.ndarray]:
    """
    Args:
        counts: (K,) training images of each class.

    Returns:
        {group: (K,) bool}: "many" from 101 training images on, "few" below 20, "medium" in between.
    """
    many, few = counts >= MANY_MIN, counts <= FEW_MAX
    return {"many": many, "medium": ~many & ~few, "few": few}


@torch.no_grad()
def predict(model: ImageClassifier, images: ImageSet, batch_size: int, device: torch.device) -> np.ndarray:
    """
    Args:
        model: in training or evaluation mode, which it keeps.
        images: N images.
        batch_size: number of images per forward pass.
        device: device of the model.

    Returns:
        (N, K) float64 test-time scores.
    """
    was_training = model.training
    model.eval()
    found = [model.scores(model(batch.to(device))).double().cpu() for batch, _ in ordered_batches(images, batch_size)]
    model.train(was_training)
    return torch.cat(found).numpy()


@torch.no_grad()
def statistics_of(
    model: ImageClassifier, images: ImageSet, batch_size: int, device: torch.device, weights: str
) -> LogitStatistics:
    """
    The mean and standard deviation of the logit of each class over images.

    Args:
        model: set to evaluation mode.
        images: with the classes of the model.
        batch_size: number of images per forward pass.
        device: device of the model.
        weights: path of the model's checkpoint, whose checksum is stated in the result.
    """
    digest = cached_sha256(weights)
    model.eval()
    collector = StatisticsCollector(images.num_classes)
    for batch, _ in ordered_batches(images, batch_size):
        collector.add(model.activation.class_logits(model(batch.to(device))))
    return collector.statistics(images.class_names, weights, digest)


def results_of(scores: np.ndarray, labels: np.ndarray, train_counts: np.ndarray) -> dict:
    """
    Args:
        scores: (N, K) test-time scores.
        labels: (N,) of the test set.
        train_counts: (K,) training images of each class.

    Returns:
        the content of ``results.json``: accuracies in percent, of all images as "accuracy", as the mean over classes as
        "balanced_accuracy", and as the mean over classes of a group as "many", "medium" and "few" (None for an empty
        group); "per_class", K accuracies, None for a class without test images; "marginal", (K,) p(y), see
        :func:`marginal`; "train_counts" and "test_counts", (K,); "test_images", N.
    """
    right = scores.argmax(axis=1) == labels
    tested = np.bincount(labels, minlength=scores.shape[1])
    per_class = 100 * np.bincount(labels, right, minlength=scores.shape[1]) / np.maximum(tested, 1)
    accuracy = 100 * float(right.mean())
    # Of equal counts, the two means are one number, which rounding must not split into two.
    balanced = accuracy if is_balanced(tested) else float(per_class[tested > 0].mean())
    results: dict = {"accuracy": accuracy, "balanced_accuracy": balanced}
    for group, members in frequency_groups(train_counts).items():
        known = per_class[members & (tested > 0)]
        results[group] = float(known.mean()) if len(known) else None
    return {
        **results,
        "per_class": [float(value) if n else None for value, n in zip(per_class, tested)],
        "marginal": marginal(scores, labels).tolist(),
        "train_counts": train_counts.tolist(),
        "test_counts": tested.tolist(),
        "test_images": len(labels),
    }


def is_balanced(counts: np.ndarray | Sequence[int]) -> bool:
    """Whether all classes have the same number of images."""
    return min(counts) == max(counts)


def marginal(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """
    The marginal likelihood p(y): the mean over the test images of p(y | x), where each class has the same weight.

    That of a calibrated model is uniform. Scores that are no distribution, as those of sigmoids, are divided by their
    sum for each image. Classes without test images are left out of the mean.

    Args:
        scores: (N, K).
        labels: (N,).

    Returns:
        (K,), which sums to 1.
    """
    total = scores.sum(axis=1, keepdims=True)
    posterior = scores / np.where(total > 0, total, 1)
    tested = np.bincount(labels, minlength=scores.shape[1])
    if is_balanced(tested):
        return posterior.mean(axis=0)
    return np.average(posterior, axis=0, weights=1 / tested[labels])
