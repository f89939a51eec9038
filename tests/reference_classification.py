"""
The losses and the Meta Sampler of long-tailed classification once more, in plain loops over plain numbers.

As in tests/reference.py, nothing here shares code, or a trick, with the package.
"""

from __future__ import annotations

import math

import numpy as np

from tests.reference import sigmoid, softmax


def inverse_frequency_weights(counts) -> list[float]:
    """1 / n_j, times what makes their mean 1."""
    inverse = [1 / n for n in counts]
    return [w * len(counts) / sum(inverse) for w in inverse]


def effective_number_weights(counts, beta) -> list[float]:
    """One over the effective number 1 + beta + ... + beta^(n-1), the sum written out, times what makes the mean 1."""
    inverse = [1 / sum(beta**i for i in range(n)) for n in counts]
    return [w * len(counts) / sum(inverse) for w in inverse]


def weighted_loss(logits, gt_classes, class_weights, roi_weights=None, gamma=0.0, weighted_mean=False) -> float:
    """
    Of each sample v w_y (1 - p_y)^gamma (-log p_y), summed, and divided by R or by the sum of w_y.

    Logits (R, C), class_weights (C,), roi_weights v (R,).
    """
    total = divisor = 0.0
    for r, (row, gt) in enumerate(zip(logits, gt_classes)):
        p = softmax(row)[gt]
        v = 1 if roi_weights is None else roi_weights[r]
        total -= v * class_weights[gt] * (1 - p) ** gamma * math.log(p)
        divisor += class_weights[gt] if weighted_mean else 1
    return total / divisor


def weighted_loss_gradient(
    logits, gt_classes, class_weights, roi_weights=None, gamma=0.0, weighted_mean=False
) -> np.ndarray:
    """
    By the chain rule over p, the probability of the right class.

    d loss / d p = -(1 - p)^gamma / p + gamma (1 - p)^(gamma - 1) log p, and d p / d z_j = p (1[j = y] - p_j).
    """
    gradient = np.zeros(np.shape(logits))
    divisor = 0.0
    for r, (row, gt) in enumerate(zip(logits, gt_classes)):
        p = softmax(row)
        own = p[gt]
        slope = -((1 - own) ** gamma) / own + gamma * (1 - own) ** (gamma - 1) * math.log(own)
        v = 1 if roi_weights is None else roi_weights[r]
        for j in range(len(row)):
            gradient[r, j] = v * class_weights[gt] * slope * own * ((1 if j == gt else 0) - p[j])
        divisor += class_weights[gt] if weighted_mean else 1
    return gradient / divisor


def ldam_logits(logits, gt_classes, counts, max_margin, scale) -> np.ndarray:
    """
    The logits s cos, of which that of the right class is s (cos - m_y), m_y = max_margin (n_min / n_y)^(1/4).

    A class beyond those of ``counts``, the background, has no margin.
    """
    out = np.array(logits, float)
    for r, gt in enumerate(gt_classes):
        if gt < len(counts):
            cosine = out[r, gt] / scale
            out[r, gt] = scale * (cosine - max_margin * (min(counts) / counts[gt]) ** 0.25)
    return out


def equalization_probabilities(logits, gt_classes, tail, beta) -> np.ndarray:
    """
    p_j = w_j e^z_j / sum_k w_k e^z_k, in which w_k is 0 or 1: told in words, not by the product.

    A tail class for which beta is 1 is left out, unless it is the class of the sample, or the sample is background.
    Logits (R, C), tail (K,), beta (R, K).
    """
    out = np.zeros(np.shape(logits))
    for r, (row, gt) in enumerate(zip(logits, gt_classes)):
        terms = []
        for j, logit in enumerate(row):
            is_class = j < len(tail)
            left_out = is_class and tail[j] and beta[r][j] and j != gt and gt < len(tail)
            terms.append(0.0 if left_out else math.exp(logit))
        out[r] = [term / sum(terms) for term in terms]
    return out


def sigmoid_focal_loss(logits, gt_classes, gamma, alpha, roi_weights=None) -> float:
    """Over R: v alpha_t (1 - p_t)^gamma (-log p_t) of all R * K entries, p_t the probability of the entry's target."""
    total = 0.0
    for r, (row, gt) in enumerate(zip(logits, gt_classes)):
        for j, logit in enumerate(row):
            p = sigmoid(logit)
            p_t, alpha_t = (p, alpha) if j == gt else (1 - p, 1 - alpha)
            v = 1 if roi_weights is None else roi_weights[r]
            total -= v * (1 if alpha < 0 else alpha_t) * (1 - p_t) ** gamma * math.log(p_t)
    return total / len(logits)


def sampling_rates(psi, counts) -> list[float]:
    """Proportional to n_j sigma(psi_j)."""
    rates = [n * sigmoid(p) for p, n in zip(psi, counts)]
    return [rate / sum(rates) for rate in rates]


def relaxed_weights(psi, at, noise, tau, counts=None) -> list[float]:
    """
    Straight-through weights as functions of psi: 1 + y_b[c_b](psi) - y_b[c_b](at) of draw b.

    y_b is the relaxed draw, the softmax of (log rate + noise) / tau, and c_b its largest entry at psi = ``at``. There,
    the weight is 1, with the gradient of the relaxed draw. Rates are proportional to e^psi, or n sigma(psi) if counts
    n are given. Noise (B, K).
    """

    def relaxed(values, g):
        if counts is None:
            scores = [(v + n) / tau for v, n in zip(values, g)]
        else:
            scores = [(math.log(count * sigmoid(v)) + n) / tau for v, n, count in zip(values, g, counts)]
        return softmax(scores)

    weights = []
    for g in noise:
        there = relaxed(at, g)
        chosen = max(range(len(there)), key=lambda j: there[j])
        weights.append(1 + relaxed(psi, g)[chosen] - there[chosen])
    return weights


def sampled_outer_loss(weights, weight, bias, batch, meta_batch, counts, inner_lr) -> float:
    """
    The plain cross entropy on the meta batch after a step on the Balanced Softmax loss of the sampled batch.

    The inner loss is sum_b v_b (-log p_b) / B, p the softmax of z_j + log n_j; its derivative with respect to logit j
    of sample b is v_b (p_j - y_j) / B. Weight (K, D), bias (K,); batches are pairs of features (B, D) and classes (B,).
    """
    features, gt_classes = batch
    moved_weight, moved_bias = np.array(weight, float), np.array(bias, float)
    for b, (x, gt) in enumerate(zip(features, gt_classes)):
        shifted = [
            sum(w * value for w, value in zip(row, x)) + offset + math.log(n)
            for row, offset, n in zip(weight, bias, counts)
        ]
        p = softmax(shifted)
        for j in range(len(bias)):
            slope = weights[b] * (p[j] - (1 if j == gt else 0)) / len(features)
            moved_bias[j] -= inner_lr * slope
            for d, value in enumerate(x):
                moved_weight[j, d] -= inner_lr * slope * value
    total = 0.0
    for x, gt in zip(*meta_batch):
        logits = [sum(w * value for w, value in zip(row, x)) + offset for row, offset in zip(moved_weight, moved_bias)]
        total -= math.log(softmax(logits)[gt])
    return total / len(meta_batch[1])
