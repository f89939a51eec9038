"""What balanced losses are for: predictions that fit a test set in which all classes are equally frequent."""

import numpy as np
import pytest
import torch

from balanced_lvis.activations import balanced_softmax_loss, build_activation, sigmoid_loss, softmax_loss
from balanced_lvis.calibration import build_calibration
from balanced_lvis.priors import ClassPrior

# Losses whose minimum is the posterior for equal class frequencies, with options.
BALANCED = {"balanced_softmax": {}, "class_balanced_weighting": {}, "class_balanced": {"beta": 1 - 1e-9}}


def minimized(parameters, loss_of):
    """Minimize a loss over some tensors, in place."""
    optimizer = torch.optim.LBFGS(
        parameters, max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-15, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        loss = loss_of()
        loss.backward()
        return loss

    optimizer.step(closure)


# ------------------------------------------------------------------ cats and dogs (Ren et al.)

MALE, FEMALE = torch.eye(2, dtype=torch.float64)
CAT, DOG = 0, 1


def animals():
    """Nine male and nine female cats, one male and one female dog: the sex says nothing about the class."""
    features = torch.stack([*[MALE, FEMALE] * 9, MALE, FEMALE])
    return features, torch.tensor([CAT] * 18 + [DOG] * 2)


def probability_of_a_male_cat(name, calibration=None, **options):
    features, classes = animals()
    prior = ClassPrior(("cat", "dog"), np.bincount(classes), len(classes))
    activation = build_activation(name, 2, prior, background=False, **options)
    classifier = activation.classifier(2).double()
    minimized(list(classifier.parameters()), lambda: activation.loss(classifier(features), classes))
    with torch.no_grad():
        logits = classifier(MALE[None])
        if calibration:
            return build_calibration(calibration, 2, prior).scores(activation, logits)[0, CAT].item()
        return activation.scores(logits)[0, CAT].item()


def test_a_softmax_predicts_cat_for_nine_of_ten_males():
    assert probability_of_a_male_cat("softmax") == pytest.approx(0.9, abs=1e-4)


@pytest.mark.parametrize("name", BALANCED)
def test_a_balanced_loss_leaves_males_undecided(name):
    assert probability_of_a_male_cat(name, **BALANCED[name]) == pytest.approx(0.5, abs=1e-4)


def test_logit_adjustment_of_a_softmax_leaves_males_undecided():
    assert probability_of_a_male_cat("softmax", "logit_adjustment") == pytest.approx(0.5, abs=1e-4)


def logits_of_a_male(loss_of, outputs):
    """Logits for the only input, a male animal, that minimize a loss on nine cats and one dog."""
    logits = torch.zeros(1, outputs, dtype=torch.float64, requires_grad=True)
    classes = torch.tensor([CAT] * 9 + [DOG])
    minimized([logits], lambda: loss_of(logits.expand(10, -1), classes))
    return logits.detach()[0]


def test_softmax_learns_the_bias_of_the_cats_and_balanced_softmax_does_not():
    biased = logits_of_a_male(softmax_loss, 2).softmax(0)
    offset = torch.log(torch.tensor([9.0, 1.0], dtype=torch.float64))
    balanced = logits_of_a_male(lambda x, y: balanced_softmax_loss(x, y, offset), 2).softmax(0)
    assert biased[CAT].item() == pytest.approx(0.9, abs=1e-6)
    assert balanced[CAT].item() == pytest.approx(0.5, abs=1e-6)


def test_sigmoid_learns_the_bias_of_the_cats_and_balanced_sigmoid_does_not():
    prior = ClassPrior(("cat", "dog"), [9, 1], 10)
    activation = build_activation("balanced_sigmoid", 2, prior, form="centred")
    biased = logits_of_a_male(sigmoid_loss, 2).sigmoid()
    # The third unit, the background, has no gradient: its logit stays 0.
    balanced = logits_of_a_male(activation.loss, 3)[:2].sigmoid()
    assert biased.tolist() == pytest.approx([0.9, 0.1], abs=1e-6)
    assert balanced.tolist() == pytest.approx([0.5, 0.5], abs=1e-6)


# ------------------------------------------------------------------ the marginal p(y)

K, INPUTS = 5, 7
COUNTS = [1000, 300, 90, 30, 10]
PRIOR = ClassPrior(tuple("abcde"), COUNTS, sum(COUNTS))


def likelihood():
    """(INPUTS, K) p(x | y) of a world with seven inputs."""
    table = 0.05 + np.random.default_rng(0).random((INPUTS, K)) ** 2
    return table / table.sum(axis=0)


def fitted(name, **options):
    """(INPUTS, K) scores of the model that minimizes a loss on infinitely many training samples."""
    logits = torch.zeros(INPUTS, K, dtype=torch.float64, requires_grad=True)
    inputs, classes = (part.flatten() for part in torch.meshgrid(torch.arange(INPUTS), torch.arange(K), indexing="ij"))
    frequency = torch.from_numpy(likelihood() * np.array(COUNTS) / sum(COUNTS)).flatten()
    activation = build_activation(name, K, PRIOR, background=False, **options)
    minimized([logits], lambda: activation.loss(logits[inputs], classes, frequency))
    return activation, logits.detach()


def marginal(scores):
    """p(y) = sum_x p(x) p(y | x) where all classes are equally frequent: p(x) is the mean of p(x | y)."""
    return likelihood().mean(axis=1) @ np.asarray(scores)


@pytest.mark.parametrize("name", BALANCED)
def test_the_marginal_of_a_balanced_model_is_uniform(name):
    activation, logits = fitted(name, **BALANCED[name])
    scores = activation.scores(logits)
    np.testing.assert_allclose(marginal(scores), np.full(K, 1 / K), atol=1e-4)
    posterior = likelihood() / likelihood().sum(axis=1, keepdims=True)
    np.testing.assert_allclose(scores, posterior, atol=2e-3)


def test_the_marginal_of_a_softmax_is_near_the_training_prior():
    activation, logits = fitted("softmax")
    found = marginal(activation.scores(logits))
    assert found[0] > 0.5 and found[-1] < 0.05
    adjusted = build_calibration("logit_adjustment", K, PRIOR).scores(activation, logits)
    np.testing.assert_allclose(marginal(adjusted), np.full(K, 1 / K), atol=1e-4)
