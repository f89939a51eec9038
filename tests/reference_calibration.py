"""Naive calibrations, in plain loops over RoIs and classes, from the papers' formulas. Nothing here is stable."""

import math
from statistics import NormalDist

from tests.reference import sigmoid, softmax


def norcal_softmax(logits, counts, gamma):
    """Pan et al., Equation 3: exp(z_c) / N_c^gamma, background undivided, normalised over all K+1."""
    out = []
    for row in logits:
        parts = [math.exp(z) / n**gamma for z, n in zip(row, counts)] + [math.exp(z) for z in row[len(counts) :]]
        out.append([part / sum(parts) for part in parts])
    return out


def norcal_sigmoid(logits, counts, gamma):
    """The score s_c and its rest 1 - s_c, of which only s_c is divided, normalised again."""
    out = []
    for row in logits:
        divided = [sigmoid(z) / n**gamma for z, n in zip(row, counts)]
        out.append([d / (d + sigmoid(-z)) for z, d in zip(row, divided)])
    return out


def with_odds_times(p, factor):
    """The probability whose odds are those of p times a factor."""
    return p * factor / (p * factor + 1 - p)


def own_scores(probabilities, counts, dimensions, name, strength):
    """
    Calibrated probabilities of the K classes, of which each is one of its own, such as a sigmoid's.

    Logit adjustment divides odds by (K n_c / n)^strength, NorCal by n_c^strength, and FRACAL multiplies p by one with
    other odds.
    """
    k, total = len(counts), sum(counts)
    out = []
    for row in probabilities:
        if name == "logit_adjustment":
            out.append([with_odds_times(p, (total / (k * n)) ** strength) for p, n in zip(row, counts)])
        elif name == "norcal":
            out.append([p / n**strength / (p / n**strength + 1 - p) for p, n in zip(row, counts)])
        else:
            powers = [d**strength for d in dimensions]
            shifts = [math.log10(total / (k * n)) - math.log10(k * d / sum(powers)) for n, d in zip(counts, powers)]
            out.append([p * with_odds_times(p, math.exp(shift)) for p, shift in zip(row, shifts)])
    return out


def norcal_normalised(scores, counts, gamma):
    """Scores of K classes and the background, divided by n_c^gamma and 1, normalised again."""
    out = []
    for row in scores:
        parts = [s / n**gamma for s, n in zip(row, counts)] + [row[-1]]
        out.append([part / sum(parts) for part in parts])
    return out


def seesaw_scores(logits, factors):
    """Softmax of the K classes, whose exponentials have factors, times that of "object" against background."""
    out = []
    for row in logits:
        parts = [math.exp(z) * factor for z, factor in zip(row, factors)]
        is_object, background = softmax(row[len(factors) :])
        out.append([is_object * part / sum(parts) for part in parts] + [background])
    return out


def inverse_frequency(f, total, variant):
    return {
        "raw": lambda: math.log(1 / f),
        "smooth": lambda: math.log((total + 1) / (f * total + 1)) + 1,
        "rel": lambda: math.log((1 - f) / f),
        "normit": lambda: -NormalDist().inv_cdf(f),
        "gombit": lambda: -math.log(-math.log(1 - f)),
        "base2": lambda: math.log2(1 / f),
        "base10": lambda: math.log10(1 / f),
    }[variant]()


def iif(logits, counts, total, variant, form, relative):
    """Softmax of z_c times (or plus) the inverse frequency; the background's is 1 (or 0)."""
    weights = [inverse_frequency(n / total, total, variant) for n in counts]
    mean = inverse_frequency(sum(counts) / len(counts) / total, total, variant)
    out = []
    for row in logits:
        changed = []
        for z, w in zip(row, weights):
            if form == "multiply":
                changed.append(z * w / mean if relative else z * w)
            else:
                changed.append(z + w - mean if relative else z + w)
        out.append(softmax([*changed, *row[len(counts) :]]))
    return out


def fracal_softmax(logits, counts, dimensions, strength):
    total, k = sum(counts), len(counts)
    out = []
    for row in logits:
        shifted = [z + math.log10(total / n) - math.log10(k) for z, n in zip(row, counts)] + list(row[k:])
        parts = [p / d**strength for p, d in zip(softmax(shifted), [*dimensions, 1.0])]
        out.append([part / sum(parts) for part in parts])
    return out


def fracal_sigmoid(logits, counts, dimensions, strength):
    total, k = sum(counts), len(counts)
    powers = [d**strength for d in dimensions]
    out = []
    for row in logits:
        scores = []
        for z, n, power in zip(row, counts, powers):
            shift = math.log10(total / n) - math.log10(k) + math.log10(1 / k) - math.log10(power / sum(powers))
            scores.append(sigmoid(z) * sigmoid(z + shift))
        out.append(scores)
    return out


def logn(logits, means, stds):
    """The calibrated logits of the K classes, with the background's at the end if there is one."""
    return [
        [(z - (m - min(means))) / s for z, m, s in zip(row, means, stds)] + list(row[len(means) :]) for row in logits
    ]


def fractal_dimension(centres):
    """
    The slope of log(occupied cells) on log(grid) by the normal equations, for the centres of one class as (x, y) pairs.
    """
    if len(centres) < 4:
        return 1.0
    points = []
    for grid in range(1, 65):
        if grid * grid > len(centres):
            break
        occupied = {(min(int(x * grid), grid - 1), min(int(y * grid), grid - 1)) for x, y in centres}
        points.append((math.log(grid), math.log(len(occupied))))
    n, sx, sy = len(points), sum(x for x, _ in points), sum(y for _, y in points)
    sxx, sxy = sum(x * x for x, _ in points), sum(x * y for x, y in points)
    return max(1.0, (n * sxy - sx * sy) / (n * sxx - sx * sx))
