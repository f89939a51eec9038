"""The losses of the comparisons on long-tailed classification, each against its naive derivation."""

import functools
import math

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from balanced_lvis.activations import (
    StateUpdates,
    build_activation,
    effective_number_weights,
    inverse_frequency_weights,
)
from balanced_lvis.priors import ClassPrior
from balanced_lvis.priors.sampled_counts import SampledCounts
from balanced_lvis.utils.errors import InputError
from tests import reference_classification as reference
from tests.activations.batches import K, R, batch, roi_weights

COUNTS = [400, 150, 60, 20, 5, 1]
INSTANCES = [4000, 160, 200, 20, 9, 1]
PRIOR = ClassPrior(tuple("abcdef"), COUNTS, sum(COUNTS), INSTANCES)
BACKGROUND = pytest.mark.parametrize("background", [False, True])
WEIGHTED = pytest.mark.parametrize("weighted", [False, True])


def random_batch(background):
    outputs = K + int(background)
    return batch(outputs=outputs, classes=outputs)


def check(activation, logits, gt_classes, roi_weight, expected, expected_gradient):
    loss = activation.loss(logits, gt_classes, roi_weight)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-5, atol=1e-8)


def check_weighted(activation, background, weighted, class_weights, change=None, **options):
    """Compare with the naive loss of ``change``d logits, whose derivative by the classifier's logits is 1."""
    logits, gt_classes = random_batch(background)
    roi_weight = roi_weights(weighted)
    changed = logits.detach().numpy()
    if change is not None:
        changed = change(changed, gt_classes.tolist())
    class_weights = [*class_weights, *[1.0] * background]
    arguments = changed, gt_classes.tolist(), class_weights, None if roi_weight is None else roi_weight.tolist()
    check(
        activation, logits, gt_classes, roi_weight,
        reference.weighted_loss(*arguments, **options), reference.weighted_loss_gradient(*arguments, **options),
    )  # fmt: skip


# ------------------------------------------------------------------ against the references


@BACKGROUND
@WEIGHTED
@pytest.mark.parametrize("reduction", ["mean", "weighted_mean"])
@pytest.mark.parametrize(("count", "counts"), [("image", COUNTS), ("instance", INSTANCES)])
def test_class_balanced_weighting_equals_naive_loops(background, weighted, reduction, count, counts):
    activation = build_activation(
        "class_balanced_weighting", K, PRIOR, background=background, count=count, reduction=reduction
    )
    weights = reference.inverse_frequency_weights(counts)
    check_weighted(activation, background, weighted, weights, weighted_mean=reduction == "weighted_mean")


@BACKGROUND
@WEIGHTED
@pytest.mark.parametrize("reduction", ["mean", "weighted_mean"])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("beta", [0.0, 0.9, 0.9999])
def test_class_balanced_loss_equals_naive_loops(background, weighted, beta, gamma, reduction):
    activation = build_activation(
        "class_balanced", K, PRIOR, background=background, beta=beta, gamma=gamma, reduction=reduction
    )
    weights = reference.effective_number_weights(COUNTS, beta)
    check_weighted(activation, background, weighted, weights, gamma=gamma, weighted_mean=reduction == "weighted_mean")


@BACKGROUND
@WEIGHTED
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_focal_loss_equals_naive_loops(background, weighted, gamma):
    activation = build_activation("focal", K, background=background, gamma=gamma)
    check_weighted(activation, background, weighted, [1.0] * K, gamma=gamma)


@BACKGROUND
@WEIGHTED
@pytest.mark.parametrize("drw_start", [-1, 0])
@pytest.mark.parametrize(("max_margin", "scale"), [(0.5, 30.0), (0.3, 4.0), (0.0, 1.0)])
def test_ldam_equals_naive_loops(background, weighted, drw_start, max_margin, scale):
    activation = build_activation(
        "ldam", K, PRIOR, background=background, max_margin=max_margin, scale=scale, drw_start=drw_start
    )
    weights = [1.0] * K if drw_start < 0 else reference.effective_number_weights(COUNTS, 0.9999)
    change = functools.partial(reference.ldam_logits, counts=COUNTS, max_margin=max_margin, scale=scale)
    check_weighted(activation, background, weighted, weights, change, weighted_mean=True)


@BACKGROUND
@WEIGHTED
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_softmax_equalization_equals_naive_loops(background, weighted, gamma):
    activation = build_activation("softmax_equalization", K, PRIOR, background=background, threshold=0.05, gamma=gamma)
    logits, gt_classes = random_batch(background)
    roi_weight = roi_weights(weighted)
    torch.manual_seed(5)
    beta = torch.rand(R, K) < gamma
    tail = [n / sum(COUNTS) < 0.05 for n in COUNTS]
    assert sum(tail) == 3 and (gamma == 0 or beta.any())
    p = reference.equalization_probabilities(logits.detach().numpy(), gt_classes.tolist(), tail, beta.tolist())
    own = [p[r, gt] for r, gt in enumerate(gt_classes.tolist())]
    weights = [1.0] * R if roi_weight is None else roi_weight.tolist()
    gradient = p.copy()
    for r, gt in enumerate(gt_classes.tolist()):
        gradient[r, gt] -= 1
        gradient[r] *= weights[r] / R
    torch.manual_seed(5)
    check(
        activation, logits, gt_classes, roi_weight,
        sum(-w * math.log(p_own) for w, p_own in zip(weights, own)) / R, gradient,
    )  # fmt: skip


@BACKGROUND
@WEIGHTED
@pytest.mark.parametrize(("gamma", "alpha"), [(0.0, -1), (2.0, 0.25), (0.5, 0.5), (2.0, -1)])
def test_sigmoid_focal_loss_equals_naive_loops(background, weighted, gamma, alpha):
    activation = build_activation("sigmoid_focal", K, background=background, gamma=gamma, alpha=alpha)
    logits, gt_classes = random_batch(background)
    roi_weight = roi_weights(weighted)
    weights = None if roi_weight is None else roi_weight.tolist()
    expected = reference.sigmoid_focal_loss(logits.detach().numpy()[:, :K], gt_classes.tolist(), gamma, alpha, weights)
    loss = activation.loss(logits, gt_classes, roi_weight)
    assert loss.item() == pytest.approx(expected, rel=1e-9)
    if background:
        assert not torch.autograd.grad(loss, logits)[0][:, K].any(), "the unused background output must not be trained"


def test_sigmoid_focal_loss_and_gradient_are_those_of_torchvision():
    logits, gt_classes = random_batch(background=False)
    target = nn.functional.one_hot(gt_classes, K).double()
    losses = [
        build_activation("sigmoid_focal", K, background=False).loss(logits, gt_classes),
        torchvision.ops.sigmoid_focal_loss(logits, target, alpha=0.25, gamma=2, reduction="sum") / R,
    ]
    gradients = [torch.autograd.grad(loss, logits)[0] for loss in losses]
    torch.testing.assert_close(losses[0], losses[1])
    torch.testing.assert_close(gradients[0], gradients[1])


# ------------------------------------------------------------------ class weights


def test_weights_have_a_mean_of_one_and_the_ratios_of_the_counts():
    weights = inverse_frequency_weights(PRIOR)
    assert weights.mean() == pytest.approx(1)
    np.testing.assert_allclose(weights[5] / weights, np.array(COUNTS))


def test_effective_numbers_lie_between_equal_weights_and_inverse_frequencies():
    np.testing.assert_allclose(effective_number_weights(PRIOR, 0.0), np.ones(K))
    np.testing.assert_allclose(effective_number_weights(PRIOR, 1 - 1e-9), inverse_frequency_weights(PRIOR), rtol=1e-5)


def test_weights_follow_the_counts_of_the_sampler():
    shown = SampledCounts("class-aware", 600.0, np.full(K, 100.0), np.full(K, 100.0))
    sampled = ClassPrior(PRIOR.class_names, COUNTS, sum(COUNTS), INSTANCES, sampled_counts=shown)
    np.testing.assert_allclose(inverse_frequency_weights(sampled), np.ones(K))


def test_classes_without_samples_take_no_weight_from_others():
    prior = ClassPrior(("a", "b", "c"), [30, 10, 0], 40)
    assert inverse_frequency_weights(prior)[:2].tolist() == pytest.approx([0.5, 1.5])


def test_a_weighted_mean_is_that_of_torch():
    logits, gt_classes = random_batch(background=False)
    for name in ("class_balanced_weighting", "class_balanced"):
        activation = build_activation(name, K, PRIOR, background=False, reduction="weighted_mean")
        expected = nn.functional.cross_entropy(logits, gt_classes, activation.class_weight.double())
        assert activation.loss(logits, gt_classes).item() == pytest.approx(expected.item())


def cifar_prior(num_classes, largest, factor):
    counts = [int(largest * factor ** (-i / (num_classes - 1))) for i in range(num_classes)]
    return ClassPrior(tuple(map(str, range(num_classes))), counts, sum(counts))


def test_the_figures_for_cifar_in_the_docs():
    prior = cifar_prior(10, 5000, 100)
    assert (inverse_frequency_weights(prior) * prior.share()).sum() == pytest.approx(0.16, abs=0.005)
    for num_classes, largest, counts in ((100, 500, (56, 47)), (10, 5000, (2, 45))):
        prior = cifar_prior(num_classes, largest, 200)
        tail = build_activation("softmax_equalization", num_classes, prior, background=False).tail.numpy()
        assert (tail.sum(), prior.image_count[tail].max()) == counts


# ------------------------------------------------------------------ deferred re-weighting


WEIGHTED_NAMES = ["class_balanced_weighting", "class_balanced", "ldam"]


def train(activation, updates, skipped=0):
    """Losses before each of some updates, the first of which are skipped."""
    logits, gt_classes = random_batch(background=False)
    state = StateUpdates(activation)
    losses = []
    for update in range(updates):
        state.begin()
        activation.record(logits, gt_classes)
        losses.append(activation.loss(logits, gt_classes).item())
        if update < skipped:
            state.discard()
        else:
            state.accept()
    return losses


@pytest.mark.parametrize("name", WEIGHTED_NAMES)
def test_weights_apply_from_the_update_that_is_configured(name):
    logits, gt_classes = random_batch(background=False)
    never, always = (
        build_activation(name, K, PRIOR, background=False, drw_start=start).loss(logits, gt_classes).item()
        for start in (-1, 0)
    )
    deferred = build_activation(name, K, PRIOR, background=False, drw_start=3)
    assert never != always
    assert train(deferred, 5) == [never, never, never, always, always]


def test_without_weights_the_loss_is_the_plain_one():
    logits, gt_classes = random_batch(background=False)
    activation = build_activation("class_balanced", K, PRIOR, background=False, drw_start=-1)
    expected = build_activation("softmax", K, background=False).loss(logits, gt_classes)
    assert activation.loss(logits, gt_classes).item() == pytest.approx(expected.item(), rel=1e-12)


def test_skipped_updates_do_not_count():
    activation = build_activation("ldam", K, PRIOR, background=False, drw_start=3)
    train(activation, 4, skipped=2)
    assert activation.updates.item() == 2


def test_the_count_is_saved_and_only_where_it_is_needed():
    activation = build_activation("ldam", K, PRIOR, drw_start=2)
    assert set(activation.state_dict()) == {"updates"}
    activation.updates += 2
    resumed = build_activation("ldam", K, PRIOR, drw_start=2)
    resumed.load_state_dict(activation.state_dict())
    assert torch.equal(resumed.class_weight, activation.class_weight)
    assert not torch.equal(resumed.class_weight, torch.ones(K + 1))
    for start in (-1, 0):
        assert not build_activation("ldam", K, PRIOR, drw_start=start).states


def test_evaluation_and_other_losses_do_not_count():
    activation = build_activation("ldam", K, PRIOR, background=False, drw_start=2)
    logits, gt_classes = random_batch(background=False)
    for _ in range(3):
        activation.loss(logits, gt_classes)
        activation.record(logits, gt_classes)  # outside of an update, as in evaluation
    assert activation.updates.item() == 0


# ------------------------------------------------------------------ LDAM


def test_the_rarest_class_has_the_largest_margin_and_the_background_none():
    margins = build_activation("ldam", K, PRIOR, max_margin=0.5, scale=30).margins
    expected = [15 * (1 / n) ** 0.25 for n in COUNTS]
    assert margins.tolist() == pytest.approx([*expected, 0.0])


def test_the_classifier_gives_cosines_times_the_scale():
    torch.manual_seed(0)
    activation = build_activation("ldam", K, PRIOR, background=False, scale=7.0)
    classifier, x = activation.classifier(4), torch.randn(5, 4)
    assert set(dict(classifier.named_parameters())) == {"weight"}
    for r, row in enumerate(classifier(x).tolist()):
        for j, logit in enumerate(row):
            w = classifier.weight[j].detach()
            assert logit == pytest.approx((7 * (w @ x[r]) / (w.norm() * x[r].norm())).item(), abs=1e-5)
    torch.testing.assert_close(classifier(3 * x), classifier(x))
    assert torch.isfinite(classifier(torch.zeros(2, 4))).all()


def test_scores_have_no_margins():
    logits, _ = random_batch(background=False)
    activation = build_activation("ldam", K, PRIOR, background=False)
    torch.testing.assert_close(activation.scores(logits), logits.softmax(1))


# ------------------------------------------------------------------ focal loss


@pytest.mark.parametrize("gamma", [0.1, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("own", [-3e4, -60.0, 0.0, 60.0, 3e4])
@pytest.mark.parametrize("name", ["focal", "sigmoid_focal"])
def test_the_focal_gradient_is_finite_whatever_the_probability(name, gamma, own):
    logits = torch.tensor([[own, 0.0, 0.0]], requires_grad=True)
    activation = build_activation(name, 3, background=False, gamma=gamma)
    loss = activation.loss(logits, torch.tensor([0]))
    (gradient,) = torch.autograd.grad(loss, logits, create_graph=True)
    (second,) = torch.autograd.grad(gradient.sum(), logits)
    assert math.isfinite(loss.item()) and torch.isfinite(gradient).all() and torch.isfinite(second).all()


def test_a_single_class_has_a_loss_of_zero():
    logits = torch.randn(3, 1, requires_grad=True)
    for name in ("focal", "class_balanced", "ldam", "softmax_equalization"):
        prior = ClassPrior(("a",), [5], 5)
        activation = build_activation(name, 1, prior, background=False)
        loss = activation.loss(logits, torch.zeros(3).long())
        assert loss.item() == 0 and torch.isfinite(torch.autograd.grad(loss, logits)[0]).all()


# ------------------------------------------------------------------ softmax equalization


def equalization(**options):
    return build_activation("softmax_equalization", K, PRIOR, background=False, threshold=0.05, **options)


def test_draws_follow_the_seed_of_torch():
    logits, gt_classes = random_batch(background=False)
    activation = equalization(gamma=0.5)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first, second = (activation.loss(logits, gt_classes).item() for _ in range(2))
    torch.set_rng_state(state)
    assert [activation.loss(logits, gt_classes).item() for _ in range(2)] == [first, second]
    assert first != second


def test_the_loss_is_the_plain_softmax_without_a_tail_or_draws():
    logits, gt_classes = random_batch(background=False)
    expected = build_activation("softmax", K, background=False).loss(logits, gt_classes).item()
    assert equalization(gamma=0.0).loss(logits, gt_classes).item() == expected
    uniform = ClassPrior(tuple("abcdef"), [10] * K, 60)
    activation = build_activation("softmax_equalization", K, uniform, background=False, threshold=0.05)
    assert activation.loss(logits, gt_classes).item() == expected


def test_head_samples_lower_tail_logits_as_often_as_gamma_allows():
    logits = torch.zeros(20_000, K, requires_grad=True)
    torch.manual_seed(0)
    loss = equalization(gamma=0.9).loss(logits, torch.zeros(20_000).long())
    touched = (torch.autograd.grad(loss, logits)[0] != 0).double().mean(0)
    assert touched[:3].tolist() == [1, 1, 1]
    np.testing.assert_allclose(touched[3:], 0.1, atol=0.01)  # more than four standard deviations


def test_background_samples_lower_all_logits():
    activation = build_activation("softmax_equalization", K, PRIOR, threshold=0.05, gamma=1.0)
    logits = torch.zeros(1, K + 1, requires_grad=True)
    (gradient,) = torch.autograd.grad(activation.loss(logits, torch.tensor([K])), logits)
    assert (gradient[0, :K] > 0).all()


# ------------------------------------------------------------------ invalid options


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("focal", {"gamma": -1}, "gamma of focal is -1"),
        ("focal", {"gamma": float("nan")}, "gamma of focal is nan"),
        ("sigmoid_focal", {"gamma": -1}, "gamma of sigmoid_focal is -1"),
        ("sigmoid_focal", {"alpha": 2}, "alpha of sigmoid_focal is 2"),
        ("class_balanced", {"beta": 1.0}, "beta is 1.0"),
        ("class_balanced", {"gamma": -0.1}, "gamma of ClassBalanced is -0.1"),
        ("class_balanced", {"count": "pixel"}, "'pixel'"),
        ("class_balanced_weighting", {"reduction": "sum"}, "'sum'; valid: mean, weighted_mean"),
        ("class_balanced_weighting", {"drw_start": -2}, "drw_start of ClassBalancedWeighting is -2"),
        ("ldam", {"drw_start": 1.5}, "drw_start of LDAM is 1.5"),
        ("ldam", {"max_margin": -0.1}, "max_margin of ldam is -0.1"),
        ("ldam", {"scale": 0}, "scale of ldam is 0"),
        ("ldam", {"beta": -0.1}, "beta is -0.1"),
        ("softmax_equalization", {"gamma": 1.1}, "gamma of softmax_equalization is 1.1"),
        ("softmax_equalization", {"threshold": 0}, "threshold of softmax_equalization is 0"),
    ],
)
def test_invalid_options_are_named(name, options, message):
    with pytest.raises(InputError, match=message):
        build_activation(name, K, PRIOR, **options)
