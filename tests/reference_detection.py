"""
The losses of long-tailed detectors once more, in plain loops over plain numbers.

As in tests/reference.py, nothing here shares code, or a trick, with the package.
"""

from __future__ import annotations

import math

import numpy as np

from tests.reference import sigmoid


def federated_classes(gt_classes, counts, power, wanted, noise) -> set[int]:
    """
    Classes of the batch, the background K among them, and others one by one until there are ``wanted``.

    The next one is that with the largest count ** power / noise. This draws without replacement at rates proportional
    to count ** power, if the noise is exponential: the first of several Poisson processes to arrive is number j with a
    probability proportional to its rate. Classes without images are never drawn.
    """
    kept = set(gt_classes)
    while len(kept) < wanted:
        left = [j for j, count in enumerate(counts) if count > 0 and j not in kept]
        if not left:
            break
        kept.add(max(left, key=lambda j: counts[j] ** power / noise[j]))
    return kept


def federated_weights(gt_classes, num_classes, kept) -> np.ndarray:
    """(R, K): 1 for the classes that are kept, on all RoIs."""
    return np.array([[1.0 if j in kept else 0.0 for j in range(num_classes)] for _ in gt_classes])


def drop_weights(gt_classes, tail, noise) -> np.ndarray:
    """
    (R, K), told in words: only negatives of tail classes can be dropped.

    On foreground RoIs they always are. On background RoIs they are dropped with probability 1 - rho, where rho is how
    much of the foreground belongs to the tail; all are kept where there is no foreground. Noise (R, K) in [0, 1).
    """
    foreground = [gt for gt in gt_classes if gt < len(tail)]
    rho = sum(tail[gt] for gt in foreground) / len(foreground) if foreground else 1.0
    weights = np.ones((len(gt_classes), len(tail)))
    for r, gt in enumerate(gt_classes):
        for j in range(len(tail)):
            is_negative = j != gt
            is_foreground = gt < len(tail)
            if tail[j] and is_negative and (is_foreground or not noise[r][j] < rho):
                weights[r, j] = 0
    return weights


def gumbel(x: float) -> float:
    return math.exp(-math.exp(-x))


def gumbel_log_odds(x: float) -> float:
    """log(p / (1 - p)), from u = -log p: p / (1 - p) = 1 / (e^u - 1). For a large u, e^u - 1 is e^u."""
    u = math.exp(-x)
    return -u if u > 500 else -math.log(math.expm1(u))


def gumbel_loss(logits, gt_classes, weights=None) -> float:
    """Binary cross entropy of exp(-exp(-x)), x cut to [-4, 10]; over R. Logits, weights (R, K)."""
    total = 0.0
    for r, (row, gt) in enumerate(zip(logits, gt_classes)):
        for j, logit in enumerate(row):
            p = gumbel(min(max(logit, -4), 10))
            weight = 1 if weights is None else weights[r][j]
            total -= weight * (math.log(p) if j == gt else math.log(1 - p))
    return total / len(logits)


def gumbel_loss_gradient(logits, gt_classes, weights=None) -> np.ndarray:
    """By p' = p exp(-x): -w p' / p for positives, w p' / (1 - p) for negatives, 0 outside of [-4, 10]."""
    gradient = np.zeros(np.shape(logits))
    for r, (row, gt) in enumerate(zip(logits, gt_classes)):
        for j, logit in enumerate(row):
            if -4 <= logit <= 10:
                p = gumbel(logit)
                slope = p * math.exp(-logit)
                weight = 1 if weights is None else weights[r][j]
                gradient[r, j] = weight * (-slope / p if j == gt else slope / (1 - p)) / len(logits)
    return gradient


def class_margins(counts) -> list[tuple[float, float]]:
    """
    Margins of positives and negatives of each output, as the authors' code adds them.

    Of the fourth roots of the numbers of positives and negatives: the log of their sum over that of the negatives, and
    over that of the positives.
    """
    margins = []
    for n in counts:
        positive, negative = n**0.25, (sum(counts) - n) ** 0.25
        margins.append((math.log((positive + negative) / negative), math.log((positive + negative) / positive)))
    return margins


def class_margin_probabilities(logits, counts) -> np.ndarray:
    """e^(z + m+) / (e^(z + m+) + e^(-z + m-)) of each output. Logits (R, C)."""
    out = np.zeros(np.shape(logits))
    for r, row in enumerate(logits):
        for j, (z, (positive, negative)) in enumerate(zip(row, class_margins(counts))):
            out[r, j] = math.exp(z + positive) / (math.exp(z + positive) + math.exp(-z + negative))
    return out


def class_margin_weights(counts) -> list[float]:
    """a log((1 + a) / a), a the negatives per positive."""
    out = []
    for n in counts:
        a = (sum(counts) - n) / n
        out.append(a * math.log((1 + a) / a))
    return out


def class_margin_loss(logits, gt_classes, counts, roi_weights=None) -> float:
    """Weighted binary cross entropy of all outputs, the background included; over R."""
    total = 0.0
    output_weights = class_margin_weights(counts)
    for r, (row, gt) in enumerate(zip(class_margin_probabilities(logits, counts), gt_classes)):
        for j, p in enumerate(row):
            weight = output_weights[j] * (1 if roi_weights is None else roi_weights[r])
            total -= weight * (math.log(p) if j == gt else math.log(1 - p))
    return total / len(logits)


def class_margin_gradient(logits, gt_classes, counts, roi_weights=None) -> np.ndarray:
    """p is a sigmoid of twice the logit plus a constant, so that d loss / d z = 2 w (p - y) / R."""
    gradient = np.zeros(np.shape(logits))
    output_weights = class_margin_weights(counts)
    for r, (row, gt) in enumerate(zip(class_margin_probabilities(logits, counts), gt_classes)):
        for j, p in enumerate(row):
            weight = output_weights[j] * (1 if roi_weights is None else roi_weights[r])
            gradient[r, j] = 2 * weight * (p - (1 if j == gt else 0)) / len(logits)
    return gradient


def class_margin_scores(logits) -> np.ndarray:
    """sigma(z_j) (1 - sigma(z_bg)) of the classes, sigma(z_bg) of the background. Logits (R, K+1)."""
    out = np.zeros(np.shape(logits))
    for r, row in enumerate(logits):
        background = sigmoid(row[-1])
        for j, z in enumerate(row):
            out[r, j] = background if j == len(row) - 1 else sigmoid(z) * (1 - background)
    return out


def positives(gt_classes, num_classes) -> int:
    """Number of foreground RoIs, 1 if there is none."""
    return max(1, sum(gt < num_classes for gt in gt_classes))


def sample_mean_weights(counts, beta) -> list[float]:
    """Inverse effective numbers, times what makes their mean over all samples 1. A class of none has half a sample."""
    inverse = [1 / sum(beta**i for i in range(n)) if n else (1 - beta) / (1 - beta**0.5) for n in counts]
    of_samples = [w for w, n in zip(inverse, counts) for _ in range(n)]
    return [w * len(of_samples) / sum(of_samples) for w in inverse]
