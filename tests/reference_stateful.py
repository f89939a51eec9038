"""Formulas of methods with state once more, derived from the papers' maths in plain loops over plain numbers."""

from __future__ import annotations

import math

import numpy as np

from tests.reference import sigmoid, softmax


def binary_cross_entropy(logit: float, positive: bool) -> float:
    return math.log1p(math.exp(-logit)) if positive else math.log1p(math.exp(logit))


# ------------------------------------------------------------------ Equalization Loss v2


def gradient_weights(positive: float, negative: float, gamma: float, mu: float, alpha: float) -> tuple[float, float]:
    """Weights of a class's positives and negatives by the gradients that they have had so far."""
    ratio = positive / negative if negative > 0 else 100
    of_negatives = sigmoid(gamma * (ratio - mu))
    return 1 + alpha * (1 - of_negatives), of_negatives


def equalization_v2(updates, gamma, mu, alpha, num_classes):
    """
    Losses of consecutive updates, and the accumulated gradients after the last.

    Args:
        updates: list of (logits (R, K+1), gt_classes), in which the last column is the background's.

    Returns:
        losses, [gradients of positives (K,), of negatives (K,)]
    """
    so_far = np.zeros((2, num_classes))
    losses = []
    for logits, gt_classes in updates:
        total, new = 0.0, np.zeros((2, num_classes))
        for row, gt in zip(logits, gt_classes):
            for j, logit in enumerate(row):
                weights = (1.0, 1.0)  # the background's
                if j < num_classes:
                    weights = gradient_weights(so_far[0, j], so_far[1, j], gamma, mu, alpha)
                weight = weights[0] if j == gt else weights[1]
                total += weight * binary_cross_entropy(logit, j == gt)
                if j < num_classes:
                    gradient = 1 - sigmoid(logit) if j == gt else sigmoid(logit)
                    new[0 if j == gt else 1, j] += weight * gradient
        losses.append(total / len(logits))
        so_far += new
    return losses, so_far


def sigmoid_background_scores(logits) -> np.ndarray:
    """The score of class j is sigmoid(z_j) (1 - sigmoid(z_bg)); the background's is its sigmoid."""
    return np.array(
        [[sigmoid(logit) * (1 - sigmoid(row[-1])) for logit in row[:-1]] + [sigmoid(row[-1])] for row in logits]
    )


# ------------------------------------------------------------------ Seesaw Loss


def seesaw_loss(logits, gt_classes, seen, p, q, eps) -> float:
    """
    -log of e^z_y / (e^z_y + sum over the other classes of S_yj e^z_j), and the cross entropy of (object, background).

    S_yj is the mitigation factor, below 1 if class j was seen less than y, times the compensation factor, above 1 if it
    has the higher score. Logits (R, K+2).
    """
    num_classes = len(seen)
    total = 0.0
    for row, gt in zip(logits, gt_classes):
        classes, (is_object, background) = row[:num_classes], softmax(row[num_classes:])
        if gt == num_classes:
            total -= math.log(background)
            continue
        scores = softmax(classes)
        denominator = 0.0
        for j in range(num_classes):
            factor = 1.0
            if j != gt and max(seen[j], 1) < max(seen[gt], 1):
                factor *= (max(seen[j], 1) / max(seen[gt], 1)) ** p
            if j != gt and scores[j] > max(scores[gt], eps):
                factor *= (scores[j] / max(scores[gt], eps)) ** q
            denominator += factor * math.exp(classes[j] - classes[gt])
        total += math.log(denominator) - math.log(is_object)
    return total / len(logits)


def seesaw_gradient(logits, gt_classes, seen, p, q, eps) -> np.ndarray:
    """With constant factors, that of a softmax: S_yj e^z_j / denominator - [j = y], divided by R."""
    num_classes = len(seen)
    gradient = np.zeros(np.shape(logits))
    for r, (row, gt) in enumerate(zip(logits, gt_classes)):
        pair = softmax(row[num_classes:])
        gradient[r, num_classes:] = [pair[0] - (gt != num_classes), pair[1] - (gt == num_classes)]
        if gt == num_classes:
            continue
        scores = softmax(row[:num_classes])
        terms = []
        for j in range(num_classes):
            mitigation = min(1, max(seen[j], 1) / max(seen[gt], 1)) ** p
            compensation = max(1, scores[j] / max(scores[gt], eps)) ** q
            terms.append((1 if j == gt else mitigation * compensation) * scores[j])
        for j in range(num_classes):
            gradient[r, j] = terms[j] / sum(terms) - (j == gt)
    return gradient / len(logits)


def seesaw_scores(logits) -> np.ndarray:
    """softmax(classes) times the probability of an object; last the probability of background."""
    out = []
    for row in logits:
        is_object, background = softmax(row[-2:])
        out.append([score * is_object for score in softmax(row[:-2])] + [background])
    return np.array(out)


# ------------------------------------------------------------------ normalized layers


def normalized_linear(x, weight, bias, temperature) -> np.ndarray:
    """b_j + t x.w_j / (|x| |w_j|), 0 for the cosine with a vector of zeros."""
    out = np.zeros((len(x), len(weight)))
    for r, features in enumerate(x):
        for j, w in enumerate(weight):
            product = sum(a * b for a, b in zip(features, w))
            norms = math.sqrt(sum(a * a for a in features)) * math.sqrt(sum(b * b for b in w))
            out[r, j] = bias[j] + (temperature * product / norms if norms else 0)
    return out


# ------------------------------------------------------------------ Equilibrium Loss


def equilibrium(updates, decay, background_score, num_classes):
    """
    Losses of consecutive updates, each a list of the processes' (logits (R, K+1), gt_classes) whose loss is one over
    all their RoIs, and the mean scores after the last.

    p_y = m_y e^z_y / sum_j m_j e^z_j; then m_j moves towards the mean of p_j = softmax(z)_j over the RoIs of class j.
    """
    mean_score = [background_score] * (num_classes + 1)
    losses = []
    for processes in updates:
        rows = [row for logits, _ in processes for row in logits]
        gt_classes = [gt for _, of_process in processes for gt in of_process]
        total = 0.0
        for row, gt in zip(rows, gt_classes):
            terms = [m * math.exp(logit) for m, logit in zip(mean_score, row)]
            total -= math.log(terms[gt] / sum(terms))
        losses.append(total / len(rows))
        for j in range(num_classes):
            scores = [softmax(row)[j] for row, gt in zip(rows, gt_classes) if gt == j]
            if scores:
                mean_score[j] = decay * mean_score[j] + (1 - decay) * sum(scores) / len(scores)
    return losses, mean_score[:num_classes]


# ------------------------------------------------------------------ Adaptive Class Suppression Loss


def acsl_counts(logits, gt_classes, threshold) -> np.ndarray:
    """(R, K): 1 for entries of foreground RoIs that have a loss, 0 for others; NaN on background RoIs."""
    out = np.zeros(np.shape(logits))
    for r, (row, gt) in enumerate(zip(logits, gt_classes)):
        for j, logit in enumerate(row):
            if gt == len(row):
                out[r, j] = math.nan
            elif j == gt or sigmoid(logit) >= threshold:
                out[r, j] = 1
    return out


# ------------------------------------------------------------------ foreground classification balance loss


def confusion_matrix(batches, num_classes) -> np.ndarray:
    """(K, K): mean softmax over the classes, of the RoIs of each class; 0 for a class without RoIs."""
    out, count = np.zeros((num_classes, num_classes)), np.zeros(num_classes)
    for logits, gt_classes in batches:
        for row, gt in zip(logits, gt_classes):
            if gt < num_classes:
                count[gt] += 1
                out[gt] += softmax(row[:num_classes])
    for j in range(num_classes):
        out[j] /= max(count[j], 1)
    return out


def fcbl_entries(logits, gt_classes, confusion, alpha, threshold, least_rate):
    """(R, K+1) margins and weights of the loss's entries."""
    num_classes = len(confusion)
    margins, weights = np.zeros(np.shape(logits)), np.ones(np.shape(logits))
    scores = sigmoid_background_scores(logits)
    for r, gt in enumerate(gt_classes):
        for j in range(num_classes if gt < num_classes else 0):
            there, back = max(confusion[gt][j], least_rate), max(confusion[j][gt], least_rate)
            margins[r, j] = alpha * math.log(there / back)
            if scores[r, j] < scores[r, gt] and scores[r, j] < threshold:
                weights[r, j] = 0
    return margins, weights
