"""What holds for every activation, and each one against its naive derivation."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from balanced_lvis.activations import (
    activation_class,
    activation_names,
    balanced_softmax_loss,
    build_activation,
    register_activation,
    sigmoid_loss,
    softmax_loss,
)
from balanced_lvis.errors import InputError
from balanced_lvis.priors import ClassPrior

from .. import reference

K = 6
IMAGE_COUNT = [1, 5, 20, 60, 150, 400]
INSTANCE_COUNT = [1, 9, 20, 200, 160, 4000]
NUM_IMAGES = 500


@pytest.fixture
def prior():
    return ClassPrior(tuple("abcdef"), IMAGE_COUNT, NUM_IMAGES, INSTANCE_COUNT)


def batch(rois=40, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rois, K + 1, generator=generator, dtype=torch.float64) * 3
    return logits.to(dtype).requires_grad_(), torch.randint(0, K + 1, (rois,), generator=generator)


def loss_and_gradient(activation, logits, gt_classes):
    loss = activation.loss(logits, gt_classes)
    (gradient,) = torch.autograd.grad(loss, logits)
    return loss.item(), gradient.numpy()


# ------------------------------------------------------------------ against the references


@pytest.mark.parametrize(
    ("name", "options", "offset", "foreground_only"),
    [
        ("sigmoid", {}, np.zeros(K), False),
        (
            "balanced_sigmoid",
            {"form": "foreground"},
            reference.balanced_sigmoid_offset_foreground(IMAGE_COUNT, NUM_IMAGES),
            True,
        ),
        ("balanced_sigmoid", {"form": "centred"}, reference.balanced_sigmoid_offset_centred(IMAGE_COUNT), False),
        (
            "balanced_sigmoid",
            {"form": "centred", "count": "instance"},
            reference.balanced_sigmoid_offset_centred(INSTANCE_COUNT),
            False,
        ),
    ],
)
def test_sigmoid_family_equals_naive_loops(prior, name, options, offset, foreground_only):
    logits, gt_classes = batch()
    loss, gradient = loss_and_gradient(build_activation(name, K, prior, **options), logits, gt_classes)
    training_logits = reference.shifted(
        logits.detach().numpy()[:, :K], gt_classes.tolist(), offset, foreground_only=foreground_only
    )
    assert loss == pytest.approx(reference.sigmoid_loss(training_logits, gt_classes.tolist()), rel=1e-6)
    expected = reference.sigmoid_loss_gradient(training_logits, gt_classes.tolist())
    np.testing.assert_allclose(gradient[:, :K], expected, atol=1e-7)
    assert not gradient[:, K].any(), "the unused background unit must not be trained"


@pytest.mark.parametrize(
    ("name", "options", "counts"),
    [
        ("softmax", {}, [1] * K),
        ("balanced_softmax", {}, IMAGE_COUNT),
        ("balanced_softmax", {"count": "instance"}, INSTANCE_COUNT),
    ],
)
def test_softmax_family_equals_naive_loops(prior, name, options, counts):
    logits, gt_classes = batch()
    loss, gradient = loss_and_gradient(build_activation(name, K, prior, **options), logits, gt_classes)
    probabilities = reference.balanced_softmax_probabilities(logits.detach().numpy(), counts)
    assert loss == pytest.approx(reference.cross_entropy(probabilities, gt_classes.tolist()), rel=1e-6)
    expected = reference.cross_entropy_gradient(probabilities, gt_classes.tolist())
    np.testing.assert_allclose(gradient, expected, atol=1e-7)


def test_scores_carry_no_prior(prior):
    logits, _ = batch()
    with torch.no_grad():
        for name in ("sigmoid", "balanced_sigmoid"):
            scores = build_activation(name, K, prior).scores(logits)
            torch.testing.assert_close(scores[:, :K], logits[:, :K].sigmoid())
        for name in ("softmax", "balanced_softmax"):
            torch.testing.assert_close(build_activation(name, K, prior).scores(logits), logits.softmax(1))


# ------------------------------------------------------------------ what holds for all


@pytest.mark.parametrize("name", activation_names())
def test_no_rois_give_a_zero_loss_with_gradients(prior, name):
    logits = torch.zeros(0, K + 1, requires_grad=True)
    activation = build_activation(name, K, prior)
    loss = activation.loss(logits, torch.zeros(0, dtype=torch.int64))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.shape == (0, K + 1)
    assert activation.scores(logits).shape == (0, K + 1)


@pytest.mark.parametrize("name", activation_names())
def test_inputs_are_never_mutated(prior, name):
    logits, gt_classes = batch()
    before = logits.detach().clone(), gt_classes.clone()
    activation = build_activation(name, K, prior)
    activation.loss(logits, gt_classes).backward()
    activation.scores(logits)
    assert torch.equal(logits, before[0])
    assert torch.equal(gt_classes, before[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", activation_names())
def test_half_precision_logits_are_computed_in_float32(prior, name, dtype):
    logits, gt_classes = batch(dtype=dtype)
    activation = build_activation(name, K, prior)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = activation.loss(logits, gt_classes)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(activation.loss(logits.float(), gt_classes).item(), rel=1e-6)
    assert torch.isfinite(torch.autograd.grad(loss, logits)[0]).all()
    assert torch.isfinite(activation.scores(logits)).all()


@pytest.mark.parametrize("extreme", [0.0, 60.0, -60.0, 3e4, -3e4])
@pytest.mark.parametrize("name", activation_names())
def test_loss_and_gradient_are_finite_for_counts_0_and_1_and_extreme_logits(name, extreme):
    prior = ClassPrior(tuple("abcdef"), [0, 1, 1, 10, 10, 10], 10)
    logits = torch.full((K + 1, K + 1), extreme, requires_grad=True)
    loss, gradient = loss_and_gradient(build_activation(name, K, prior), logits, torch.arange(K + 1))
    assert math.isfinite(loss)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("name", activation_names())
def test_gradients_agree_with_finite_differences(prior, name):
    logits, gt_classes = batch(rois=4)
    activation = build_activation(name, K, prior)
    assert torch.autograd.gradcheck(lambda x: activation.loss(x, gt_classes), logits)


@pytest.mark.parametrize("name", activation_names())
def test_uniform_counts_change_nothing(name):
    uniform = ClassPrior(tuple("abcdef"), [10] * K, 100)
    plain = name.replace("balanced_", "")
    logits, gt_classes = batch()
    expected = build_activation(plain, K).loss(logits, gt_classes).item()
    assert build_activation(name, K, uniform).loss(logits, gt_classes).item() == pytest.approx(expected)


@pytest.mark.parametrize("name", activation_names())
def test_state_dicts_of_stock_checkpoints_stay_usable(prior, name):
    assert not build_activation(name, K, prior).state_dict()


@settings(deadline=None)
@given(st.integers(1, 30), st.integers(0, 2**31))
def test_foreground_form_leaves_background_rois_alone(rois, seed):
    prior = ClassPrior(tuple("abcdef"), IMAGE_COUNT, NUM_IMAGES)
    logits, _ = batch(rois, seed)
    background = torch.full((rois,), K)
    balanced = build_activation("balanced_sigmoid", K, prior, form="foreground").loss(logits, background)
    assert balanced.item() == build_activation("sigmoid", K).loss(logits, background).item()


def test_prior_probability_sets_the_first_score_and_the_first_loss(prior):
    for name in ("sigmoid", "balanced_sigmoid"):
        activation = build_activation(name, K, prior, prior_probability=0.001)
        bias = torch.empty(K + 1)
        activation.init_bias_(bias)
        assert bias.sigmoid()[0].item() == pytest.approx(0.001, rel=1e-5)
    lvis = build_activation("sigmoid", 1203)
    bias = torch.empty(1204)
    lvis.init_bias_(bias)
    first_loss = lvis.loss(bias.expand(512, -1), torch.full((512,), 1203))
    assert first_loss.item() == pytest.approx(-1203 * math.log(1 - 0.001), rel=1e-4)  # 1.2, not 834


# ------------------------------------------------------------------ the seed's cats and dogs


def fit(loss_of, width):
    """Logits for the only input (a male animal) that minimise a loss on 9 cats and 1 dog."""
    logits = torch.zeros(1, width, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-14)
    animals = torch.tensor([0] * 9 + [1])

    def closure():
        optimizer.zero_grad()
        loss = loss_of(logits.expand(10, -1), animals)
        loss.backward()
        return loss

    optimizer.step(closure)
    return logits.detach()


def test_softmax_learns_the_bias_of_the_cats_and_balanced_softmax_does_not():
    biased = fit(softmax_loss, 2).softmax(1)[0, 0].item()
    offset = torch.log(torch.tensor([9.0, 1.0], dtype=torch.float64))
    balanced = fit(lambda x, y: balanced_softmax_loss(x, y, offset), 2).softmax(1)[0, 0].item()
    assert biased == pytest.approx(0.9, abs=1e-6)
    assert balanced == pytest.approx(0.5, abs=1e-6)


def test_sigmoid_learns_the_bias_of_the_cats_and_balanced_sigmoid_does_not():
    prior = ClassPrior(("cat", "dog"), [9, 1], 10)
    activation = build_activation("balanced_sigmoid", 2, prior, form="centred")
    biased = fit(lambda x, y: sigmoid_loss(x, y), 2).sigmoid()[0]
    # The third unit, the background, has no gradient: its logit stays 0.
    balanced = fit(activation.loss, 3)[:, :2].sigmoid()[0]
    assert biased.tolist() == pytest.approx([0.9, 0.1], abs=1e-6)
    assert balanced.tolist() == pytest.approx([0.5, 0.5], abs=1e-6)


# ------------------------------------------------------------------ the table of names


def test_an_unknown_name_lists_the_valid_ones():
    with pytest.raises(InputError, match=r"'balanced_sigmiod'.*Did you mean 'balanced_sigmoid'.*softmax"):
        activation_class("balanced_sigmiod")


def test_a_name_is_registered_once():
    with pytest.raises(InputError, match="registered already"):
        register_activation("sigmoid")(object)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda p: build_activation("balanced_sigmoid", K), "needs prior="),
        (lambda p: build_activation("balanced_sigmoid", 5, p), "num_classes is 5, but the class prior has 6"),
        (lambda p: build_activation("balanced_sigmoid", K, p, form="both"), "'both'; valid: centred, foreground"),
        (lambda p: build_activation("balanced_softmax", K, p, count="pixel"), "'pixel'"),
        (lambda p: build_activation("sigmoid", K, prior_probability=0), "prior_probability is 0"),
        (lambda p: build_activation("sigmoid", K, form="raw"), "no option 'form'; valid: prior_probability"),
        (lambda p: build_activation("softmax", K, foo=1), "no option 'foo'; valid: none"),
        (lambda p: build_activation("sigmoid", K).loss(torch.zeros(3, K), torch.zeros(3).long()), r"\(3, 6\)"),
        (lambda p: build_activation("softmax", K).scores(torch.zeros(3, K + 2)), r"\(3, 8\)"),
    ],
)
def test_bad_arguments_are_named(prior, build, message):
    with pytest.raises(InputError, match=message):
        build(prior)
