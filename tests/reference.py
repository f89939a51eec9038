"""
Every formula once more, derived from the papers' maths in plain loops over plain numbers.

Slow and obvious on purpose: nothing here shares code, or a trick, with the package.
"""

from __future__ import annotations

import math

import numpy as np


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def softmax(row) -> list[float]:
    terms = [math.exp(logit) for logit in row]
    return [term / sum(terms) for term in terms]


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


def sigmoid_loss(logits, gt_classes, weights=None) -> float:
    """Binary cross entropy over all RoIs and all K classes, divided by the number of RoIs. Logits, weights (R, K)."""
    total = 0.0
    for r, (row, gt) in enumerate(zip(logits, gt_classes)):
        for j, logit in enumerate(row):
            p = sigmoid(logit)
            weight = 1 if weights is None else weights[r][j]
            total -= weight * (math.log(p) if j == gt else math.log(1 - p))
    return total / len(logits)


def sigmoid_loss_gradient(logits, gt_classes, weights=None) -> np.ndarray:
    """d loss / d logit = w (p - y) / R."""
    gradient = np.zeros(np.shape(logits))
    for r, (row, gt) in enumerate(zip(logits, gt_classes)):
        for j, logit in enumerate(row):
            weight = 1 if weights is None else weights[r][j]
            gradient[r, j] = weight * (sigmoid(logit) - (1 if j == gt else 0)) / len(logits)
    return gradient


def equalization_weights(gt_classes, image_counts, num_images, threshold) -> np.ndarray:
    """
    (R, K) w = 1 - E(r) T(f_j) (1 - y): told in words, not by the product.

    A class in less than ``threshold`` of the images has no negative loss from RoIs that hold another class. It has
    its positive loss, and that of the background.
    """
    weights = np.ones((len(gt_classes), len(image_counts)))
    for r, gt in enumerate(gt_classes):
        is_background = gt == len(image_counts)
        for j, count in enumerate(image_counts):
            if count / num_images < threshold and j != gt and not is_background:
                weights[r, j] = 0
    return weights


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


def cross_entropy(probabilities, gt_classes, roi_weights=None) -> float:
    """Mean of -w log p of the right class, w (R,)."""
    total = 0.0
    for r, (row, gt) in enumerate(zip(probabilities, gt_classes)):
        total -= (1 if roi_weights is None else roi_weights[r]) * math.log(row[gt])
    return total / len(gt_classes)


def cross_entropy_gradient(probabilities, gt_classes, roi_weights=None) -> np.ndarray:
    """d loss / d logit = w (p - y) / R, for any softmax whose logits were shifted by constants."""
    gradient = np.array(probabilities)
    for r, gt in enumerate(gt_classes):
        gradient[r, gt] -= 1
        gradient[r] *= 1 if roi_weights is None else roi_weights[r]
    return gradient / len(gt_classes)


def lvis_group(image_count: int) -> str:
    """LVIS: rare in 1-10 training images, common in 11-100, frequent in more."""
    if image_count > 100:
        return "f"
    if image_count > 10:
        return "c"
    return "r"


def image_repeat_factors(images, threshold, with_instances, power=0.5) -> list[float]:
    """
    r(I) = max over the classes c of image I of max(1, (t / f_c)^power), 1 for an image without classes.

    RFS: f_c is the share of images with class c. IRFS: sqrt(that * the share of all instances that are of class c).
    ``images`` is one list of classes per image, one entry per instance.
    """
    instances = sum(len(classes) for classes in images)
    out = []
    for classes in images:
        factor = 1.0
        for c in classes:
            frequency = sum(c in other for other in images) / len(images)
            if with_instances:
                frequency = math.sqrt(frequency * sum(other.count(c) for other in images) / instances)
            factor = max(factor, (threshold / frequency) ** power)
        out.append(factor)
    return out


def scaled_logits(features, weight, bias, scale, form) -> np.ndarray:
    """Learnable Weight Scaling: (w_j x + b_j) s_j, or (s_j w_j) x + b_j. Features (R, D), weight (C, D)."""
    out = np.zeros((len(features), len(weight)))
    for r, x in enumerate(features):
        for j, row in enumerate(weight):
            product = sum(w * value for w, value in zip(row, x))
            out[r, j] = (product + bias[j]) * scale[j] if form == "logits" else scale[j] * product + bias[j]
    return out


def class_weights_of_rois(psi, gt_classes) -> list[float]:
    """sigma(psi) of each foreground RoI's class over its mean over the foreground RoIs; 1 for background."""
    foreground = [sigmoid(psi[gt]) for gt in gt_classes if gt < len(psi)]
    mean = sum(foreground) / len(foreground) if foreground else 1
    return [sigmoid(psi[gt]) / mean if gt < len(psi) else 1.0 for gt in gt_classes]


def meta_outer_loss(psi, weight, bias, batch, meta_batch, offset, foreground_only, inner_lr) -> float:
    """
    The unshifted loss on the meta batch after one step on the balanced, weighted loss of the batch.

    The inner loss is sum_r v_r sum_j BCE(eta_rj - offset_j) / R. With p the shifted probability, its derivative with
    respect to logit r, j is v_r (p - y) / R; to weight j, d that times the feature d; to bias j, that.
    Weight (K, D), bias (K,), without a background unit; batches are pairs of features (R, D) and gt_classes (R,).
    """
    features, gt_classes = batch
    roi_weight = class_weights_of_rois(psi, gt_classes)
    logits = scaled_logits(features, weight, bias, np.ones(len(bias)), "logits")
    moved_weight, moved_bias = np.array(weight, float), np.array(bias, float)
    for r, row in enumerate(shifted(logits, gt_classes, offset, foreground_only)):
        for j, logit in enumerate(row):
            slope = roi_weight[r] * (sigmoid(logit) - (1 if j == gt_classes[r] else 0)) / len(features)
            moved_bias[j] -= inner_lr * slope
            for d, value in enumerate(features[r]):
                moved_weight[j, d] -= inner_lr * slope * value
    meta_features, meta_classes = meta_batch
    ones = np.ones(len(bias))
    return sigmoid_loss(scaled_logits(meta_features, moved_weight, moved_bias, ones, "logits"), meta_classes)


def finite_differences(function, x, step=1e-5) -> np.ndarray:
    """Central differences of a scalar function of a vector."""
    out = np.zeros(len(x))
    for j in range(len(x)):
        up, down = np.array(x, float), np.array(x, float)
        up[j] += step
        down[j] -= step
        out[j] = (function(up) - function(down)) / (2 * step)
    return out


def straight_through_gradient(psi, noise, tau, coefficients) -> np.ndarray:
    """
    d/dpsi of sum_b a_b y_b[c_b], y_b = softmax((psi + g_b) / tau), c_b = argmax_j (psi + g_b): the relaxed draw's.

    d y[c] / d psi_j = y[c] (1[j = c] - y[j]) / tau. Noise g (B, K), coefficients a (B,).
    """
    out = np.zeros(len(psi))
    for g, a in zip(noise, coefficients):
        terms = [math.exp((p + n) / tau) for p, n in zip(psi, g)]
        y = [term / sum(terms) for term in terms]
        chosen = max(range(len(psi)), key=lambda j: y[j])
        for j in range(len(psi)):
            out[j] += a * y[chosen] * ((1 if j == chosen else 0) - y[j]) / tau
    return out


def mask_logits(features, classes, weight, bias) -> np.ndarray:
    """
    Of each RoI's masks, that of its class: at each point the product of the features there with the class's weights.

    features (R, D, M, M), classes (R,), weight (K, D), bias (K,); returns (R, M, M).
    """
    features = np.asarray(features)
    out = np.zeros((len(features), *features.shape[2:]))
    for r, c in enumerate(classes):
        for y in range(features.shape[2]):
            for x in range(features.shape[3]):
                out[r, y, x] = bias[c]
                for d in range(features.shape[1]):
                    out[r, y, x] += weight[c][d] * features[r, d, y, x]
    return out


def mask_loss(logits, targets) -> float:
    """Binary cross entropy of all points of all RoIs' own masks, divided by their number; (R, M, M) both."""
    total, points = 0.0, 0
    for logit, target in zip(np.ravel(logits), np.ravel(targets)):
        p = sigmoid(logit)
        total -= math.log(p) if target else math.log(1 - p)
        points += 1
    return total / points


def mask_loss_gradients(features, classes, weight, bias, targets) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    d loss / d features, d weight, d bias, by the chain rule at each point: d loss / d logit = (p - y) / points.

    A class's weights have a share in the points of its own RoIs only.
    """
    features, targets = np.asarray(features), np.asarray(targets)
    logits = mask_logits(features, classes, weight, bias)
    to_features, to_weight, to_bias = np.zeros(features.shape), np.zeros(np.shape(weight)), np.zeros(np.shape(bias))
    for r, c in enumerate(classes):
        for y in range(features.shape[2]):
            for x in range(features.shape[3]):
                slope = (sigmoid(logits[r, y, x]) - (1 if targets[r, y, x] else 0)) / logits.size
                to_bias[c] += slope
                for d in range(features.shape[1]):
                    to_features[r, d, y, x] += slope * weight[c][d]
                    to_weight[c, d] += slope * features[r, d, y, x]
    return to_features, to_weight, to_bias


def iou(a, b) -> float:
    """Of two boxes x1 y1 x2 y2; 0 where both are empty."""
    width = max(0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union if union else 0.0


def detections(boxes, scores, image_shape, score_thresh, nms_thresh, topk) -> list[tuple]:
    """
    (score, RoI, class, box) of an image's detections, best first: all pairs, one after the other, best first.

    Boxes (R, K, 4), scores (R, K+1), the last the background's. A pair stays if no pair of its class that stays, and
    comes before it, overlaps it by more than ``nms_thresh``. RoIs with a number that isn't finite are not counted.
    """
    height, width = image_shape
    rows = [r for r in range(len(scores)) if np.isfinite(boxes[r]).all() and np.isfinite(scores[r]).all()]
    pairs = []
    for roi, r in enumerate(rows):
        for j in range(len(scores[r]) - 1):
            x1, y1, x2, y2 = (float(x) for x in boxes[r][j])
            box = (min(max(x1, 0), width), min(max(y1, 0), height), min(max(x2, 0), width), min(max(y2, 0), height))
            if scores[r][j] > score_thresh:
                pairs.append((float(scores[r][j]), roi, j, box))
    kept = []
    for pair in sorted(pairs, key=lambda pair: -pair[0]):
        if all(other[2] != pair[2] or iou(other[3], pair[3]) <= nms_thresh for other in kept):
            kept.append(pair)
    return kept if topk < 0 else kept[:topk]


def coco_run_lengths(mask) -> list[int]:
    """Lengths of runs of 0 and 1 in turns, 0 first, down one column of (H, W) after the other."""
    runs, value = [0], 0
    for x in range(len(mask[0])):
        for y in range(len(mask)):
            if bool(mask[y][x]) != bool(value):
                runs.append(0)
                value = 1 - value
            runs[-1] += 1
    return runs


def coco_string(runs: list[int]) -> str:
    """
    COCO's compression of run lengths: from the fourth on less the last but one, as signed numbers of 5-bit digits.

    Digits are written lowest first, as the character 48 + digit, + 32 if more follow. The last digit's upper bit is the
    sign, so a number is done when what is left of it is only copies of that bit: 0 or, for a negative number, -1.
    """
    out = []
    for i, run in enumerate(runs):
        number = run - runs[i - 2] if i > 2 else run
        while True:
            digit, number = number % 32, number // 32
            done = number == (-1 if digit >= 16 else 0)
            out.append(chr(48 + digit + (0 if done else 32)))
            if done:
                break
    return "".join(out)


def images_shown(objects, num_classes, threshold, power=0.5):
    """
    Expected images per epoch of repeat factor sampling, those with each class and all: image by image.

    Args:
        objects: the classes of each image's objects.
    """
    holding = [sum(c in classes for classes in objects) for c in range(num_classes)]
    images, total = [0.0] * num_classes, 0.0
    for classes in objects:
        times = max([max(1.0, (threshold / (holding[c] / len(objects))) ** power) for c in classes] + [1.0])
        total += times
        for c in set(classes):
            images[c] += times
    return images, total


def adjusted_scores(logits, counts, tau, family) -> np.ndarray:
    """
    Post-hoc logit adjustment: scores of z_c - tau log(n_c / mean n) for the K classes; the background's z stays.

    Logits (R, K+1), counts (K,). Softmax: (R, K+1) over all units; sigmoid: each class by itself, the background's 0.
    """
    mean = sum(counts) / len(counts)
    out = np.zeros(np.shape(logits))
    for r, row in enumerate(logits):
        adjusted = [z - tau * math.log(n / mean) for z, n in zip(row, counts)] + [row[len(counts)]]
        largest = max(adjusted)
        total = sum(math.exp(z - largest) for z in adjusted)
        for j, z in enumerate(adjusted):
            if family == "softmax":
                out[r, j] = math.exp(z - largest) / total
            elif j < len(counts):
                out[r, j] = sigmoid(z)
    return out


def copy_paste(image, objects, source_image, pasted, min_area, max_box_shift):
    """
    Simple Copy-Paste, pixel by pixel, with the upper left corners of both images on each other.

    Args:
        image, source_image: rows of pixels, each any value.
        objects, pasted: objects of each image, as (class, box, mask): x0, y0, x1, y1 and rows of 0 and 1.

    Returns:
        the new image, and its objects: those of the image that can still be seen, then the pasted ones.
    """
    height, width = len(image), len(image[0])
    shown = []
    for label, box, mask in pasted:
        cut = [[mask[y][x] if y < len(mask) and x < len(mask[0]) else 0 for x in range(width)] for y in range(height)]
        shown += _still_seen(label, box, mask, cut, min_area, max_box_shift)
    shown = [one for one in shown if any(map(any, one[2]))]
    if not shown:
        return image, objects
    covered = [[any(mask[y][x] for _, _, mask in shown) for x in range(width)] for y in range(height)]
    result = [[source_image[y][x] if covered[y][x] else image[y][x] for x in range(width)] for y in range(height)]
    kept = []
    for label, box, mask in objects:
        rest = [[0 if covered[y][x] else mask[y][x] for x in range(width)] for y in range(height)]
        kept += _still_seen(label, box, mask, rest, min_area, max_box_shift)
    return result, kept + shown


def _still_seen(label, box, before, after, min_area, max_box_shift) -> list:
    """The object, or nothing if too little of it is left."""
    area = sum(map(sum, after))
    if area == sum(map(sum, before)):
        return [(label, box, after)]
    if area == 0:
        return []
    old, new = box_of_mask(before), box_of_mask(after)
    moved = max(abs(a - b) for a, b in zip(old, new))
    if area <= min_area and moved > max_box_shift:
        return []
    return [(label, new, after)]


def box_of_mask(mask):
    """x0, y0, x1, y1 around the pixels of a mask, rows of 0 and 1."""
    places = [(x, y) for y, row in enumerate(mask) for x, value in enumerate(row) if value]
    columns, rows = [x for x, _ in places], [y for _, y in places]
    return [min(columns), min(rows), max(columns) + 1, max(rows) + 1]


def drawn_first(weights) -> list[float]:
    """Probabilities with which each of some objects is the first one that is drawn."""
    return [weight / sum(weights) for weight in weights]


def drawn_among_two(weights) -> list[float]:
    """Probabilities with which each of some objects is among the first two that are drawn without replacement."""
    out = []
    for i, weight in enumerate(weights):
        second = 0.0
        for j, other in enumerate(weights):
            if j != i:
                second += other / sum(weights) * weight / (sum(weights) - other)
        out.append(weight / sum(weights) + second)
    return out
