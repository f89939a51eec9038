"""
Every formula once more, derived from the papers' maths in plain loops over plain numbers.

Slow and obvious on purpose: nothing here shares code, or a trick, with the package.
"""

from __future__ import annotations

import math

import numpy as np


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def balanced_sigmoid_offset_centred(counts) -> np.ndarray:
    """
    The seed's Balanced Sigmoid: log( (n/k)/n_j * (n-n_j)/(n-n/k) ).

    One against the rest: class j holds n_j of n training samples, and would hold n/k of n in a balanced set. Bayes'
    rule multiplies the odds of a classifier by the ratio of the prior odds, training over balanced:
    (n_j / (n - n_j)) / ((n/k) / (n - n/k)). The offset is minus its logarithm.
    """
    k, n = len(counts), sum(counts)
    offsets = []
    for n_j in counts:
        training_odds = n_j / (n - n_j)
        balanced_odds = (n / k) / (n - n / k)
        offsets.append(-math.log(training_odds / balanced_odds))
    return np.array(offsets)


def balanced_sigmoid_offset_foreground(image_counts, num_images) -> np.ndarray:
    """The published variant: the odds against an image holding class j, log((1 - f_j) / f_j)."""
    offsets = []
    for count in image_counts:
        frequency = count / num_images
        offsets.append(math.log((1 - frequency) / frequency))
    return np.array(offsets)


def sigmoid_loss(logits, gt_classes) -> float:
    """Binary cross entropy over all RoIs and all K classes, divided by the number of RoIs. Logits (R, K)."""
    total = 0.0
    for row, gt in zip(logits, gt_classes):
        for j, logit in enumerate(row):
            p = sigmoid(logit)
            total -= math.log(p) if j == gt else math.log(1 - p)
    return total / len(logits)


def sigmoid_loss_gradient(logits, gt_classes) -> np.ndarray:
    """d loss / d logit = (p - y) / R."""
    gradient = np.zeros(np.shape(logits))
    for r, (row, gt) in enumerate(zip(logits, gt_classes)):
        for j, logit in enumerate(row):
            gradient[r, j] = (sigmoid(logit) - (1 if j == gt else 0)) / len(logits)
    return gradient


def shifted(logits, gt_classes, offset, foreground_only) -> np.ndarray:
    """eta_j - offset_j, on all RoIs or on those whose class is one of the K."""
    out = np.array(logits, float)
    for r, gt in enumerate(gt_classes):
        for j in range(out.shape[1]):
            if gt < out.shape[1] or not foreground_only:
                out[r, j] -= offset[j]
    return out


def balanced_softmax_probabilities(logits, counts) -> np.ndarray:
    """
    n_j e^eta_j / sum_i n_i e^eta_i, with a background unit last whose count is the mean of the classes'.

    Logits (R, K+1), counts (K,). A background that counts as much as the average class leaves the odds of foreground
    against background alone when all classes are equally frequent.
    """
    weights = [*counts, sum(counts) / len(counts)]
    out = np.zeros(np.shape(logits))
    for r, row in enumerate(logits):
        terms = [weight * math.exp(logit) for weight, logit in zip(weights, row)]
        for j, term in enumerate(terms):
            out[r, j] = term / sum(terms)
    return out


def cross_entropy(probabilities, gt_classes) -> float:
    """Mean of -log p of the right class."""
    return sum(-math.log(row[gt]) for row, gt in zip(probabilities, gt_classes)) / len(gt_classes)


def cross_entropy_gradient(probabilities, gt_classes) -> np.ndarray:
    """d loss / d logit = (p - y) / R, for any softmax whose logits were shifted by constants."""
    gradient = np.array(probabilities)
    for r, gt in enumerate(gt_classes):
        gradient[r, gt] -= 1
    return gradient / len(gt_classes)


def lvis_group(image_count: int) -> str:
    """LVIS: rare in 1-10 training images, common in 11-100, frequent in more."""
    if image_count > 100:
        return "f"
    if image_count > 10:
        return "c"
    return "r"
