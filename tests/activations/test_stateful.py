"""Methods whose loss depends on what was seen in training, each against its naive derivation."""

import math

import numpy as np
import pytest
import torch

from balanced_lvis.activations import NormalizedLinear, StateUpdates, build_activation
from balanced_lvis.calibration import build_calibration
from balanced_lvis.priors import ClassPrior
from balanced_lvis.utils.errors import InputError
from tests import reference as formulas
from tests import reference_stateful as reference
from tests.activations.batches import K, R, batch

PRIOR = ClassPrior(tuple("abcdef"), [1, 5, 20, 60, 150, 400], 500)


def update(activation, *batches):
    """One accepted update of the state."""
    updates = StateUpdates(activation)
    updates.begin()
    for logits, gt_classes in batches:
        activation.record(logits, gt_classes)
    updates.accept()


def as_lists(batches):
    return [(logits.tolist(), gt_classes.tolist()) for logits, gt_classes in batches]


def gradient_of(activation, logits, gt_classes):
    return torch.autograd.grad(activation.loss(logits, gt_classes), logits)[0].numpy()


# ------------------------------------------------------------------ sigmoids with a background


def test_the_score_of_a_class_is_lowered_by_that_of_the_background():
    logits, _ = batch()
    for name in ("sigmoid_background", "equalization_v2"):
        scores = build_activation(name, K).scores(logits.detach())
        np.testing.assert_allclose(scores, reference.sigmoid_background_scores(logits.tolist()), rtol=1e-9)


def test_every_roi_trains_the_background():
    activation = build_activation("sigmoid_background", K)
    logits, gt_classes = batch()
    expected = sum(
        reference.binary_cross_entropy(logit, j == gt)
        for row, gt in zip(logits.tolist(), gt_classes.tolist())
        for j, logit in enumerate(row)
    )
    assert activation.loss(logits, gt_classes).item() == pytest.approx(expected / len(logits), rel=1e-12)
    assert (gradient_of(activation, logits, gt_classes)[:, K] != 0).all()


# ------------------------------------------------------------------ Equalization Loss v2


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("options", [{}, {"gamma": 5.0, "mu": 0.1, "alpha": 2.0}])
def test_equalization_v2_equals_naive_loops_over_several_updates(seed, options):
    activation = build_activation("equalization_v2", K, **options)
    batches = [batch(10 * seed + i) for i in range(4)]
    losses = []
    for logits, gt_classes in batches:
        losses.append(activation.loss(logits, gt_classes).item())
        update(activation, (logits, gt_classes))
    constants = {"gamma": 12.0, "mu": 0.8, "alpha": 4.0, **options}
    expected, so_far = reference.equalization_v2(as_lists(batches), **constants, num_classes=K)
    assert losses == pytest.approx(expected, rel=1e-10)
    np.testing.assert_allclose(activation.positive_gradient, so_far[0], rtol=1e-10)
    np.testing.assert_allclose(activation.negative_gradient, so_far[1], rtol=1e-10)


def test_the_accumulated_gradients_are_those_of_the_loss():
    """w |p - y| is what autograd gives for the logits of the loss, times R."""
    activation = build_activation("equalization_v2", K)
    update(activation, batch(1))
    logits, gt_classes = batch(2)
    before = activation.positive_gradient.clone(), activation.negative_gradient.clone()
    of_logits = R * np.abs(gradient_of(activation, logits, gt_classes))[:, :K]
    positives = gt_classes.numpy()[:, None] == np.arange(K)
    update(activation, (logits, gt_classes))
    np.testing.assert_allclose(activation.positive_gradient - before[0], (of_logits * positives).sum(0))
    np.testing.assert_allclose(activation.negative_gradient - before[1], (of_logits * ~positives).sum(0))


def test_classes_without_gradients_have_weights_of_one():
    activation = build_activation("equalization_v2", K)
    assert activation.gradient_ratio.tolist() == [100.0] * K
    assert (activation.entry_weights(torch.eye(K + 1)) == 1).all()
    logits, gt_classes = batch()
    plain = build_activation("sigmoid_background", K)
    assert activation.loss(logits, gt_classes).item() == plain.loss(logits, gt_classes).item()


def test_a_class_that_is_not_yet_seen_has_nearly_no_negatives_and_the_background_keeps_its_weight():
    activation = build_activation("equalization_v2", 2)
    logits = torch.zeros(8, 3)
    update(activation, (logits, torch.tensor([0] * 8)))
    weights = activation.entry_weights(torch.zeros(1, 3, dtype=torch.float64))[0]
    assert activation.gradient_ratio[1] == 0
    assert weights.tolist() == pytest.approx([1.0, 1 / (1 + math.exp(12 * 0.8)), 1.0], abs=1e-12)
    positive = activation.entry_weights(torch.ones(1, 3, dtype=torch.float64))[0]
    assert positive[1].item() == pytest.approx(5, abs=1e-3)


# ------------------------------------------------------------------ Seesaw Loss

SEEN = [0, 1, 7, 50, 300, 5000]


def seesaw(seen=SEEN, **options):
    activation = build_activation("seesaw", len(seen), **options)
    activation.seen.copy_(torch.tensor(seen))
    return activation


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("options", [{}, {"p": 0.0}, {"q": 0.0}, {"p": 1.3, "q": 0.7, "eps": 0.2}])
def test_seesaw_equals_naive_loops(seed, options):
    activation = seesaw(**options)
    constants = {"p": 0.8, "q": 2.0, "eps": 0.01, **options}
    logits, gt_classes = batch(seed, outputs=K + 2)
    found = activation.loss(logits, gt_classes).item()
    assert found == pytest.approx(
        reference.seesaw_loss(logits.tolist(), gt_classes.tolist(), SEEN, **constants), rel=1e-10
    )
    expected = reference.seesaw_gradient(logits.tolist(), gt_classes.tolist(), SEEN, **constants)
    np.testing.assert_allclose(gradient_of(activation, logits, gt_classes), expected, atol=1e-12)


@pytest.mark.parametrize("gt_class", [0, 3, K])
def test_seesaw_with_rois_of_one_kind_only(gt_class):
    logits, _ = batch(outputs=K + 2)
    gt_classes = torch.full((R,), gt_class)
    expected = reference.seesaw_loss(logits.tolist(), gt_classes.tolist(), SEEN, 0.8, 2.0, 0.01)
    assert seesaw().loss(logits, gt_classes).item() == pytest.approx(expected, rel=1e-10)
    if gt_class == K:
        assert not gradient_of(seesaw(), logits, gt_classes)[:, :K].any()


def test_seesaw_with_a_single_class_is_objectness_alone():
    logits, gt_classes = batch(classes=2, outputs=3)
    activation = seesaw([4])
    expected = reference.seesaw_loss(logits.tolist(), gt_classes.tolist(), [4], 0.8, 2.0, 0.01)
    assert activation.loss(logits, gt_classes).item() == pytest.approx(expected, rel=1e-10)


def test_without_both_factors_seesaw_is_the_unshifted_loss():
    logits, gt_classes = batch(outputs=K + 2)
    activation = seesaw(p=0.0, q=0.0)
    assert activation.loss(logits, gt_classes).item() == activation.unshifted_loss(logits, gt_classes).item()


def test_seesaw_counts_foreground_rois():
    activation = seesaw([0] * K)
    batches = [batch(seed, outputs=K + 2) for seed in (3, 4)]
    update(activation, *batches)
    gt_classes = torch.cat([gt for _, gt in batches]).tolist()
    assert activation.seen.tolist() == [gt_classes.count(j) for j in range(K)]


def test_seesaw_scores_are_the_classes_times_objectness_and_sum_to_one():
    logits, _ = batch(outputs=K + 2)
    scores = seesaw().scores(logits.detach())
    np.testing.assert_allclose(scores, reference.seesaw_scores(logits.tolist()), rtol=1e-9)
    np.testing.assert_allclose(scores.sum(1), 1)


def test_a_calibration_changes_the_classes_and_keeps_objectness():
    activation = seesaw()
    logits = batch(outputs=K + 2)[0].detach()
    calibrated = build_calibration("logit_adjustment", K, PRIOR).scores(activation, logits)
    torch.testing.assert_close(calibrated[:, K], activation.scores(logits)[:, K])
    log_prior = np.log(np.array([1, 5, 20, 60, 150, 400]))
    shifted = [[z - log for z, log in zip(row, [*log_prior, 0, 0])] for row in logits.tolist()]
    np.testing.assert_allclose(calibrated, reference.seesaw_scores(shifted), rtol=1e-5)


# ------------------------------------------------------------------ the normalized classifier


@pytest.mark.parametrize("temperature", [20.0, 3.0])
def test_the_normalized_classifier_equals_naive_loops(temperature):
    torch.manual_seed(0)
    layer = NormalizedLinear(5, 4, temperature).double()
    x = torch.randn(7, 5, dtype=torch.float64)
    x[2] = 0
    expected = reference.normalized_linear(x.tolist(), layer.weight.tolist(), layer.bias.tolist(), temperature)
    np.testing.assert_allclose(layer(x).detach(), expected, rtol=1e-9, atol=1e-12)


def test_the_classifier_of_seesaw_is_normalized_and_starts_undecided():
    classifier = build_activation("seesaw", K).classifier(50)
    assert isinstance(classifier, NormalizedLinear) and classifier.temperature == 20
    assert classifier.weight.shape == (K + 2, 50) and not classifier.bias.any()
    x = torch.randn(3, 50)
    torch.testing.assert_close(classifier(1000 * x), classifier(x))
    assert classifier(x.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("name", ["seesaw", "effective_class_margin", "ldam"])
def test_products_of_normalized_classifiers_are_in_full_precision_under_autocast(name):
    classifier, x = build_activation(name, K).classifier(50), torch.randn(3, 50)
    with torch.autocast("cpu", torch.bfloat16):
        logits = classifier(x)
    assert torch.equal(logits, classifier(x))


# ------------------------------------------------------------------ Equilibrium Loss (LOCE)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("options", [{}, {"decay": 0.3, "background_score": 0.2}])
def test_equilibrium_equals_naive_loops_over_several_updates(seed, options):
    activation = build_activation("equilibrium", K, **options)
    # Few RoIs, so that some updates lack a class.
    batches = [batch(10 * seed + i, rois=7) for i in range(5)]
    losses = []
    for logits, gt_classes in batches:
        losses.append(activation.loss(logits, gt_classes).item())
        update(activation, (logits, gt_classes))
    constants = {"decay": 0.9, "background_score": 0.01, **options}
    expected, mean_score = reference.equilibrium([[b] for b in as_lists(batches)], **constants, num_classes=K)
    assert losses == pytest.approx(expected, rel=1e-10)
    np.testing.assert_allclose(activation.mean_score, mean_score, rtol=1e-10)


def test_equilibrium_starts_as_the_plain_softmax():
    logits, gt_classes = batch()
    expected = build_activation("softmax", K).loss(logits, gt_classes).item()
    assert build_activation("equilibrium", K).loss(logits, gt_classes).item() == pytest.approx(expected, rel=1e-12)


def test_equilibrium_is_finite_where_a_class_has_a_mean_score_of_zero():
    activation = build_activation("equilibrium", K, decay=0.0)
    logits = torch.zeros(4, K + 1).index_fill(1, torch.tensor([2]), -3e4).requires_grad_()
    gt_classes = torch.tensor([2, 2, 0, K])
    update(activation, (logits, gt_classes))
    assert activation.mean_score[2] == 0
    assert math.isfinite(activation.loss(logits, gt_classes).item())
    assert np.isfinite(gradient_of(activation, logits, gt_classes)).all()


# ------------------------------------------------------------------ Adaptive Class Suppression Loss

RCF = ClassPrior(tuple("abcdef"), [1, 10, 11, 100, 101, 400], 500)


def entries_with_loss(activation, logits, gt_classes):
    """(R, K) bool: where the gradient of the loss by the logits isn't 0."""
    return gradient_of(activation, logits, gt_classes)[:, :K] != 0


def test_acsl_on_foreground_equals_naive_loops():
    activation = build_activation("acsl", K, RCF)
    logits, gt_classes = batch(classes=K)
    counts = reference.acsl_counts(logits[:, :K].tolist(), gt_classes.tolist(), 0.7)
    assert 0 < counts.mean() < 1 and (entries_with_loss(activation, logits, gt_classes) == counts).all()
    naive = logits.detach().numpy()[:, :K], gt_classes.tolist(), counts
    assert activation.loss(logits, gt_classes).item() == pytest.approx(formulas.sigmoid_loss(*naive), rel=1e-10)
    expected = formulas.sigmoid_loss_gradient(*naive)
    np.testing.assert_allclose(gradient_of(activation, logits, gt_classes)[:, :K], expected, atol=1e-12)


@pytest.mark.parametrize(("background", "rare", "common"), [(1000, 10, 100), (199, 1, 19), (9, 0, 0), (0, 0, 0)])
def test_acsl_draws_its_shares_of_background_rois(background, rare, common):
    torch.manual_seed(0)
    activation = build_activation("acsl", K, RCF)
    gt_classes = torch.tensor([K, 0] * background + [0] * 5)
    logits = batch(rois=len(gt_classes))[0]
    found = []
    for _ in range(2):
        touched = entries_with_loss(activation, logits, gt_classes)[gt_classes.numpy() == K]
        assert touched.sum(0).tolist() == [rare, rare, common, common, background, background]
        found.append(touched)
    if rare > 1:
        assert (found[0] != found[1]).any(), "RoIs are drawn anew"
        assert (touched[:, 0] == touched[:, 1]).all(), "all classes of a group have the same RoIs"


def test_acsl_repeats_with_the_same_random_state():
    activation = build_activation("acsl", K, RCF, rare_share=0.5)
    logits, gt_classes = batch(rois=100)
    losses = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        losses.append(activation.loss(logits, gt_classes).item())
    assert losses[0] == losses[1] != losses[2]


# ------------------------------------------------------------------ foreground classification balance loss (BACL)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("options", [{}, {"alpha": 1.5, "threshold": 0.2, "least_rate": 0.05}])
def test_fcbl_equals_naive_loops(seed, options):
    activation = build_activation("fcbl", K, **options)
    constants = {"alpha": 0.85, "threshold": 0.7, "least_rate": 1e-3, **options}
    batches = [batch(10 * seed + i, rois=20) for i in range(3)]
    for b in batches:
        update(activation, b)
    confusion = reference.confusion_matrix(as_lists(batches), K)
    np.testing.assert_allclose(activation.confusion / activation.seen.clamp(min=1)[:, None], confusion, rtol=1e-10)
    logits, gt_classes = batch(10 * seed + 9)
    margins, weights = reference.fcbl_entries(logits.tolist(), gt_classes.tolist(), confusion, **constants)
    assert margins.any() and 0 < weights.mean() < 1
    shifted = logits.detach().numpy() + margins
    loss = activation.loss(logits, gt_classes).item()
    assert loss == pytest.approx(formulas.sigmoid_loss(shifted, gt_classes.tolist(), weights), rel=1e-10)
    expected = formulas.sigmoid_loss_gradient(shifted, gt_classes.tolist(), weights)
    np.testing.assert_allclose(gradient_of(activation, logits, gt_classes), expected, atol=1e-12)


def test_fcbl_has_no_margins_before_the_first_update_and_none_on_background():
    activation = build_activation("fcbl", K)
    assert not activation.margins.any()
    logits, _ = batch()
    background = torch.full((R,), K)
    update(activation, batch(1))
    plain = build_activation("sigmoid_background", K)
    assert activation.margins.any()
    assert activation.loss(logits, background).item() == plain.loss(logits, background).item()


def test_fcbl_demands_less_of_a_class_that_is_taken_for_others():
    """All RoIs of class 1 look like class 0: on RoIs of class 0, the negative of class 1 counts less."""
    activation = build_activation("fcbl", 2)
    logits = torch.tensor([[4.0, 0.0, -9.0]] * 4)
    update(activation, (logits, torch.tensor([0, 0, 1, 1])))
    assert activation.margins[0, 1] < 0 < activation.margins[1, 0]
    torch.testing.assert_close(activation.margins, -activation.margins.T)


# ------------------------------------------------------------------ options


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("equalization_v2", {"gamma": 0}, "gamma of equalization_v2 is 0"),
        ("equalization_v2", {"mu": math.nan}, "mu of equalization_v2 is nan"),
        ("equalization_v2", {"alpha": -1}, "alpha of equalization_v2 is -1"),
        ("seesaw", {"p": -0.1}, "p of seesaw is -0.1"),
        ("seesaw", {"q": math.inf}, "q of seesaw is inf"),
        ("seesaw", {"eps": 0}, "eps of seesaw is 0"),
        ("seesaw", {"temperature": 0}, "temperature of seesaw is 0"),
        ("equilibrium", {"decay": 1}, "decay of equilibrium is 1"),
        ("equilibrium", {"background_score": 0}, "background_score of equilibrium is 0"),
        ("acsl", {"threshold": 1}, "threshold of acsl is 1"),
        ("acsl", {"common_share": 1.5}, "common_share of acsl is 1.5"),
        ("acsl", {"rare_share": -1}, "rare_share of acsl is -1"),
        ("fcbl", {"alpha": -1}, "alpha of fcbl is -1"),
        ("fcbl", {"threshold": 0}, "threshold of fcbl is 0"),
        ("fcbl", {"least_rate": 1}, "least_rate of fcbl is 1"),
    ],
)
def test_invalid_options_are_named(name, options, message):
    with pytest.raises(InputError, match=message):
        build_activation(name, K, **options)
