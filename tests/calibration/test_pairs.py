"""Which calibrations fit which activations, and the values of those whose scores are not a plain sigmoid or softmax."""

import math

import numpy as np
import pytest
import torch

from balanced_lvis.activations import activation_names, build_activation
from balanced_lvis.calibration import build_calibration, calibration_names
from balanced_lvis.calibration.base import check_fits, corrects_twice, misfit
from balanced_lvis.priors import ClassPrior
from balanced_lvis.utils.errors import InputError
from tests import reference_calibration as naive
from tests.reference_detection import gumbel

K = 6
COUNTS = [1, 5, 20, 60, 150, 400]
DIMENSIONS = [1.0, 1.2, 1.0, 1.6, 1.8, 1.95]
PRIOR = ClassPrior(tuple("abcdef"), COUNTS, 500, COUNTS, fractal_dimension=DIMENSIONS)
# Activations whose scores are softmaxes; those of the others are of each class on its own.
SOFTMAXES = {
    "softmax", "balanced_softmax", "class_balanced_weighting", "class_balanced", "ldam", "focal",
    "softmax_equalization", "equilibrium", "seesaw",
}  # fmt: skip
OTHERS = {
    "sigmoid", "balanced_sigmoid", "equalization", "drop_loss", "federated", "sigmoid_focal", "acsl", "gumbel", "gol",
    "sigmoid_background", "equalization_v2", "fcbl", "effective_class_margin",
}  # fmt: skip
FITTING = {
    "logit_adjustment": SOFTMAXES | OTHERS,
    "norcal": SOFTMAXES | OTHERS,
    "fracal": SOFTMAXES | OTHERS,
    "iif": SOFTMAXES,
    "logn": SOFTMAXES,
}
STRENGTHS = {"logit_adjustment": ("tau", 0.7), "norcal": ("gamma", 0.6), "fracal": ("strength", 2.0)}


@pytest.mark.parametrize("name", calibration_names())
@pytest.mark.parametrize("activation", activation_names())
def test_which_pairs_fit(name, activation):
    assert activation in SOFTMAXES | OTHERS, "a new activation needs an entry"
    if activation in FITTING[name]:
        check_fits(name, activation)
        assert not misfit(name, activation)
    else:
        with pytest.raises(InputError, match=f"'{name}' can't be combined with activation '{activation}'"):
            check_fits(name, activation)


@pytest.mark.parametrize("activation", activation_names())
def test_which_pairs_correct_twice(activation):
    balanced = {"balanced_sigmoid", "balanced_softmax", "effective_class_margin", "equilibrium"}
    for name in calibration_names():
        assert corrects_twice(name, activation) == (activation in balanced and name != "logn")


def calibrated(name, activation, logits):
    option, value = STRENGTHS[name]
    return build_calibration(name, K, PRIOR, **{option: value}).scores(activation, logits)[:, :K]


def random_logits(outputs, seed):
    return 3 * torch.randn(30, outputs, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", STRENGTHS)
@pytest.mark.parametrize("activation", ["gumbel", "gol"])
def test_the_odds_of_gumbel_scores_are_calibrated(name, activation, seed):
    logits = random_logits(K + 1, seed)
    probabilities = [[gumbel(z) for z in row[:K]] for row in logits.tolist()]
    expected = naive.own_scores(probabilities, COUNTS, DIMENSIONS, name, STRENGTHS[name][1])
    found = calibrated(name, build_activation(activation, K), logits)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", STRENGTHS)
@pytest.mark.parametrize("activation", ["sigmoid_background", "effective_class_margin"])
def test_sigmoids_are_calibrated_and_the_score_of_the_background_is_not(name, activation, seed):
    logits = random_logits(K + 1, seed)
    probabilities = [[naive.sigmoid(z) for z in row[:K]] for row in logits.tolist()]
    own = np.array(naive.own_scores(probabilities, COUNTS, DIMENSIONS, name, STRENGTHS[name][1]))
    is_object = np.array([[naive.sigmoid(-row[K])] for row in logits.tolist()])
    times = 2 if name == "fracal" else 1  # a product of two scores
    found = calibrated(name, build_activation(activation, K), logits)
    np.testing.assert_allclose(found, own * is_object**times, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", STRENGTHS)
def test_scores_of_seesaw_are_calibrated(name, seed):
    logits = random_logits(K + 2, seed)
    total, strength = sum(COUNTS), STRENGTHS[name][1]
    if name == "norcal":
        plain = naive.seesaw_scores(logits.tolist(), [1.0] * K)
        expected = naive.norcal_normalised(plain, COUNTS, strength)
    else:
        factors = {
            "logit_adjustment": [(total / (K * n)) ** strength for n in COUNTS],
            "fracal": [math.exp(math.log10(total / (K * n))) / d**strength for n, d in zip(COUNTS, DIMENSIONS)],
        }[name]
        expected = naive.seesaw_scores(logits.tolist(), factors)
    found = calibrated(name, build_activation("seesaw", K), logits)
    np.testing.assert_allclose(found, np.array(expected)[:, :K], rtol=1e-5, atol=1e-12)
