"""What holds for every calibration, and each one against its naive derivation."""

import numpy as np
import pytest
import torch

from balanced_lvis.activations import build_activation
from balanced_lvis.calibration import (
    build_calibration,
    calibration_class,
    calibration_names,
    register_calibration,
)
from balanced_lvis.calibration.base import check_family
from balanced_lvis.priors import ClassPrior
from balanced_lvis.utils.errors import InputError
from tests import reference
from tests.activations import toys

K = 6
IMAGE_COUNT = [1, 5, 20, 60, 150, 400]
INSTANCE_COUNT = [1, 9, 20, 200, 160, 4000]
PAIRS = [(name, family) for name in calibration_names() for family in calibration_class(name).families]


@pytest.fixture
def prior():
    return ClassPrior(tuple("abcdef"), IMAGE_COUNT, 500, INSTANCE_COUNT)


def some_logits(dtype=torch.float64, outputs=K + 1):
    return (torch.randn(40, outputs, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3).to(dtype)


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("family", ["sigmoid", "softmax"])
@pytest.mark.parametrize(("count", "counts"), [("image", IMAGE_COUNT), ("instance", INSTANCE_COUNT)])
def test_logit_adjustment_equals_naive_loops(prior, family, tau, count, counts):
    calibration = build_calibration("logit_adjustment", K, prior, tau=tau, count=count)
    logits = some_logits()
    found = calibration.scores(build_activation(family, K), logits)
    np.testing.assert_allclose(found, reference.adjusted_scores(logits.tolist(), counts, tau, family), atol=1e-6)


@pytest.mark.parametrize("family", ["sigmoid", "softmax"])
def test_logit_adjustment_without_background_is_that_of_the_classes_alone(prior, family):
    logits = some_logits(outputs=K)
    found = build_calibration("logit_adjustment", K, prior).scores(
        build_activation(family, K, background=False), logits
    )
    padded = [[*row, -600.0] for row in logits.tolist()]  # a background that takes no part
    np.testing.assert_allclose(found, reference.adjusted_scores(padded, IMAGE_COUNT, 1.0, family)[:, :K], atol=1e-6)


def test_logit_adjustment_undoes_the_shift_of_balanced_softmax(prior):
    """Training with Balanced Softmax, tested raw, and training plainly, tested adjusted, are the same correction."""
    balanced, plain = build_activation("balanced_softmax", K, prior), build_activation("softmax", K)
    logits = some_logits()
    shifted = logits + balanced.offset
    calibration = build_calibration("logit_adjustment", K, prior)
    torch.testing.assert_close(calibration.scores(plain, shifted), balanced.scores(logits), atol=1e-6, rtol=1e-5)


# ------------------------------------------------------------------ what holds for all


@pytest.mark.parametrize(("name", "family"), PAIRS)
def test_scores_are_of_the_shape_and_range_of_the_activations(prior, name, family):
    calibration = build_calibration(name, K, prior)
    for background in (True, False):
        activation = build_activation(family, K, background=background)
        logits = some_logits(outputs=activation.num_outputs)
        before = logits.clone()
        scores = calibration.scores(activation, logits)
        assert scores.shape == activation.scores(logits).shape
        assert (scores >= 0).all() and (scores <= 1).all()
        assert torch.equal(logits, before)
        assert calibration.scores(activation, logits[:0]).shape == (0, scores.shape[1])


@pytest.mark.parametrize(("name", "family"), PAIRS)
def test_equal_counts_change_nothing(name, family):
    calibration = build_calibration(name, K, ClassPrior(tuple("abcdef"), [10] * K, 100))
    activation = build_activation(family, K)
    logits = some_logits(outputs=activation.num_outputs)
    torch.testing.assert_close(calibration.scores(activation, logits), activation.scores(logits), atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("name", "family"), PAIRS)
def test_half_precision_is_computed_in_float32(prior, name, family, dtype):
    calibration, activation = build_calibration(name, K, prior), build_activation(family, K)
    logits = some_logits(dtype, activation.num_outputs)
    scores = calibration.scores(activation, logits)
    assert torch.equal(scores, calibration.scores(activation, logits.float()))


@pytest.mark.parametrize("name", calibration_names())
def test_nothing_of_a_calibration_is_in_a_checkpoint(prior, name):
    calibration = build_calibration(name, K, prior)
    calibration.prepare(build_activation(calibration.families[0], K))
    assert not calibration.state_dict() and not list(calibration.parameters())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: build_calibration("logit_adjustmnt", K, p), "Did you mean 'logit_adjustment'"),
        (lambda p: build_calibration("logit_adjustment", K, p, gamma=1), "no option 'gamma'; valid: tau, count"),
        (lambda p: build_calibration("logit_adjustment", K, p, tau=float("nan")), "tau of logit_adjustment is nan"),
        (lambda p: build_calibration("logit_adjustment", K, p, count="pixel"), "'pixel'; valid"),
        (lambda p: build_calibration("logit_adjustment", 5, p), "num_classes is 5, but the class prior has 6"),
        (
            lambda p: build_calibration("logit_adjustment", K).prepare(build_activation("sigmoid", K)),
            "LogitAdjustment needs prior=",
        ),
        (lambda p: check_family("logit_adjustment", toys.OBJECTNESS), "families sigmoid, softmax.* 'toy_objectness'"),
        (lambda p: register_calibration("logit_adjustment")(object), "registered already"),
    ],
)
def test_bad_arguments_are_named(prior, make, message):
    with pytest.raises(InputError, match=message):
        make(prior)
