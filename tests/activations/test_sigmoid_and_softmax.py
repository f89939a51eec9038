"""Sigmoid, softmax and their balanced forms, and Equalization Loss, each against its naive derivation."""

import logging
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from balanced_lvis.activations import (
    build_activation,
    equalization_loss,
)
from balanced_lvis.data.training_prior import class_prior_of_dataset
from balanced_lvis.priors import ClassPrior
from tests import reference
from tests.activations.batches import IMAGE_COUNT, INSTANCE_COUNT, NUM_IMAGES, K, batch, loss_and_gradient, roi_weights


@pytest.mark.parametrize("weighted", [False, True])
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
def test_sigmoid_family_equals_naive_loops(prior, name, options, offset, foreground_only, weighted):
    logits, gt_classes = batch()
    weight = roi_weights(weighted)
    weights = weight.tolist() if weighted else [1] * 40
    weights = [[w] * K for w in weights]
    loss, gradient = loss_and_gradient(build_activation(name, K, prior, **options), logits, gt_classes, weight)
    training_logits = reference.shifted(
        logits.detach().numpy()[:, :K], gt_classes.tolist(), offset, foreground_only=foreground_only
    )
    assert loss == pytest.approx(reference.sigmoid_loss(training_logits, gt_classes.tolist(), weights), rel=1e-6)
    expected = reference.sigmoid_loss_gradient(training_logits, gt_classes.tolist(), weights)
    np.testing.assert_allclose(gradient[:, :K], expected, atol=1e-7)
    assert not gradient[:, K].any(), "the unused background unit must not be trained"


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("threshold", [0.0021, 0.04, 0.1200001, 1.0])
def test_equalization_equals_naive_loops(prior, threshold, weighted):
    logits, gt_classes = batch()
    weight = roi_weights(weighted)
    entry_weights = reference.equalization_weights(gt_classes.tolist(), IMAGE_COUNT, NUM_IMAGES, threshold)
    for r in range(40 if weighted else 0):
        entry_weights[r] *= weight[r].item()
    activation = build_activation("equalization", K, prior, threshold=threshold)
    loss, gradient = loss_and_gradient(activation, logits, gt_classes, weight)
    naive_logits = logits.detach().numpy()[:, :K]
    assert loss == pytest.approx(reference.sigmoid_loss(naive_logits, gt_classes.tolist(), entry_weights), rel=1e-9)
    expected = reference.sigmoid_loss_gradient(naive_logits, gt_classes.tolist(), entry_weights)
    np.testing.assert_allclose(gradient[:, :K], expected, atol=1e-12)
    assert not gradient[:, K].any(), "the unused background unit must not be trained"


def test_equalization_keeps_positives_and_background_and_drops_other_foreground_of_the_tail():
    tail = torch.tensor([True, False])
    logits = torch.zeros(1, 2, requires_grad=True)
    touched = []
    for gt_class in (0, 1, 2):
        (gradient,) = torch.autograd.grad(equalization_loss(logits, torch.tensor([gt_class]), tail), logits)
        touched.append((gradient != 0)[0].tolist())
    assert touched == [[True, True], [False, True], [True, True]]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    ("name", "options", "counts"),
    [
        ("softmax", {}, [1] * K),
        ("balanced_softmax", {}, IMAGE_COUNT),
        ("balanced_softmax", {"count": "instance"}, INSTANCE_COUNT),
    ],
)
def test_softmax_family_equals_naive_loops(prior, name, options, counts, weighted):
    logits, gt_classes = batch()
    weight = roi_weights(weighted)
    weights = weight.tolist() if weighted else [1] * 40
    loss, gradient = loss_and_gradient(build_activation(name, K, prior, **options), logits, gt_classes, weight)
    probabilities = reference.balanced_softmax_probabilities(logits.detach().numpy(), counts)
    assert loss == pytest.approx(reference.cross_entropy(probabilities, gt_classes.tolist(), weights), rel=1e-6)
    expected = reference.cross_entropy_gradient(probabilities, gt_classes.tolist(), weights)
    np.testing.assert_allclose(gradient, expected, atol=1e-7)


def test_scores_carry_no_prior(prior):
    logits, _ = batch()
    with torch.no_grad():
        for name in ("sigmoid", "balanced_sigmoid", "equalization"):
            scores = build_activation(name, K, prior).scores(logits)
            torch.testing.assert_close(scores[:, :K], logits[:, :K].sigmoid())
        for name in ("softmax", "balanced_softmax"):
            torch.testing.assert_close(build_activation(name, K, prior).scores(logits), logits.softmax(1))


@settings(deadline=None)
@given(st.integers(1, 30), st.integers(0, 2**31))
def test_foreground_form_leaves_background_rois_alone(rois, seed):
    prior = ClassPrior(tuple("abcdef"), IMAGE_COUNT, NUM_IMAGES)
    logits, _ = batch(seed, rois)
    background = torch.full((rois,), K)
    balanced = build_activation("balanced_sigmoid", K, prior, form="foreground").loss(logits, background)
    assert balanced.item() == build_activation("sigmoid", K).loss(logits, background).item()


def test_prior_probability_sets_the_first_score_and_the_first_loss(prior):
    for name in ("sigmoid", "balanced_sigmoid", "equalization"):
        activation = build_activation(name, K, prior, prior_probability=0.001)
        bias = torch.empty(K + 1)
        activation.init_bias_(bias)
        assert bias.sigmoid()[0].item() == pytest.approx(0.001, rel=1e-5)
    lvis = build_activation("sigmoid", 1203)
    bias = torch.empty(1204)
    lvis.init_bias_(bias)
    first_loss = lvis.loss(bias.expand(512, -1), torch.full((512,), 1203))
    assert first_loss.item() == pytest.approx(-1203 * math.log(1 - 0.001), rel=1e-4)  # 1.2, not 834


def test_the_tail_of_lvis_is_the_rare_and_common_classes_at_1_00625e_3():
    prior = class_prior_of_dataset("lvis_v1_train")
    by_threshold, by_groups = (
        build_activation("equalization", 1203, prior, **options).tail
        for options in ({"threshold": 1.00625e-3}, {"tail_groups": "rc"})
    )
    assert torch.equal(by_threshold, by_groups)
    assert by_threshold.sum() == 798 == 337 + 461
    assert by_threshold.tolist() == [reference.lvis_group(count) in "rc" for count in prior.image_count]
    assert build_activation("equalization", 1203, prior).tail.sum() > 798, "1.1e-3 is a little more than 100 images"


def test_the_threshold_itself_is_not_in_the_tail():
    prior = ClassPrior(("a", "b", "c"), [4, 5, 6], 1000)
    assert build_activation("equalization", 3, prior, threshold=0.005).tail.tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("groups", "tail"), [("r", "111000"), ("c", "000100"), ("f", "000011"), ("fr", "111011"), ("rcf", "111111")]
)
def test_groups_name_the_tail_whatever_the_threshold(groups, tail):
    prior = ClassPrior(tuple("abcdef"), [0, 1, 10, 60, 150, 400], 500)
    activation = build_activation("equalization", K, prior, tail_groups=groups, threshold=0.5)
    assert activation.tail.tolist() == [digit == "1" for digit in tail]


def test_a_tail_without_classes_is_reported_once_and_leaves_the_plain_sigmoid(caplog):
    prior = ClassPrior(tuple("abcdef"), [110] * K, 123)
    logits, gt_classes = batch()
    with caplog.at_level(logging.WARNING, logger="balanced_lvis"):
        for _ in range(3):
            activation = build_activation("equalization", K, prior, threshold=0.0123)
            activation.prepare()
    assert len(caplog.records) == 1
    assert "no class is in the tail (threshold 0.0123" in caplog.text
    expected = build_activation("sigmoid", K).loss(logits, gt_classes)
    assert activation.loss(logits, gt_classes).item() == expected.item()
