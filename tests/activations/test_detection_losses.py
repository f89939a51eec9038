"""The losses of long-tailed detectors, each against its naive derivation."""

import logging
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from balanced_lvis.activations import (
    NormalizedLinear,
    build_activation,
    drop_loss_weights,
    effective_number_weights,
    federated_classes,
    gumbel_loss,
    sigmoid_loss,
    tail_share,
)
from balanced_lvis.data.training_prior import class_prior_of_dataset
from balanced_lvis.priors import ClassPrior
from balanced_lvis.utils.errors import InputError
from tests import reference, reference_classification
from tests import reference_detection as detection
from tests.activations.batches import K, R, roi_weights

COUNTS = [1, 5, 20, 60, 150, 400]
NUM_IMAGES = 500
PRIOR = ClassPrior(tuple("abcdef"), COUNTS, NUM_IMAGES)
THRESHOLD = 0.05
TAIL = [count / NUM_IMAGES < THRESHOLD for count in COUNTS]
WEIGHTED = pytest.mark.parametrize("weighted", [False, True])
SEEDS = pytest.mark.parametrize("seed", range(3))
# Classes of the RoIs.
BATCHES = {
    "mixed": lambda: torch.randint(0, K + 1, (R,), generator=torch.Generator().manual_seed(7)),
    "background": lambda: torch.full((R,), K),
    "foreground": lambda: torch.arange(R) % K,
    "frequent": lambda: torch.where(torch.arange(R) % 2 == 0, 5, K),  # none is in the tail
}
ALL_BATCHES = pytest.mark.parametrize("batch", BATCHES)


def random_logits(seed=0, outputs=K + 1, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(R, outputs, generator=generator, dtype=torch.float64)).requires_grad_()


def entry_weights(weights, roi_weight):
    return weights if roi_weight is None else weights * roi_weight.numpy()[:, None]


def check(activation, logits, gt_classes, roi_weight, expected, expected_gradient, seed):
    torch.manual_seed(seed)
    loss = activation.loss(logits, gt_classes, roi_weight)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    found = gradient.numpy()[:, : expected_gradient.shape[1]]
    np.testing.assert_allclose(found, expected_gradient, rtol=1e-5, atol=1e-8)
    assert not gradient[:, expected_gradient.shape[1] :].any(), "the unused background output must not be trained"


# ------------------------------------------------------------------ federated loss


@ALL_BATCHES
@WEIGHTED
@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("wanted", [1, 3, 5, 7, 50])
def test_federated_loss_equals_naive_loops(batch, weighted, power, wanted):
    logits, gt_classes, roi_weight = random_logits(), BATCHES[batch](), roi_weights(weighted)
    torch.manual_seed(wanted)
    noise = torch.empty(K + 1).exponential_().tolist()
    kept = detection.federated_classes(gt_classes.tolist(), COUNTS, power, wanted, noise)
    weights = entry_weights(detection.federated_weights(gt_classes.tolist(), K, kept), roi_weight)
    naive = logits.detach().numpy()[:, :K], gt_classes.tolist(), weights
    activation = build_activation("federated", K, PRIOR, classes_per_batch=wanted, power=power)
    check(
        activation, logits, gt_classes, roi_weight,
        reference.sigmoid_loss(*naive), reference.sigmoid_loss_gradient(*naive), wanted,
    )  # fmt: skip


def draw(gt_classes, counts, wanted, power=0.5):
    weight = torch.tensor(counts, dtype=torch.float32) ** power
    return federated_classes(torch.tensor(gt_classes), weight, wanted).tolist()


def test_classes_of_the_batch_are_kept_and_others_fill_up_to_the_number():
    for seed in range(50):
        torch.manual_seed(seed)
        kept = draw([1, 3, 3, K], COUNTS, 5)
        assert kept[1] and kept[3]
        assert sum(kept) == 4, "background is one of the five"
        assert sum(draw([1, 3, 3], COUNTS, 5)) == 5
        assert draw([0, 1, 2, 3, K], COUNTS, 2) == [True] * 4 + [False] * 2, "a batch with more classes keeps them"


def test_classes_without_images_are_kept_only_if_the_batch_has_them():
    counts = [0, 0, 20, 60, 150, 400]
    for seed in range(50):
        torch.manual_seed(seed)
        assert draw([1, K], counts, 50) == [False, True, True, True, True, True]


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_classes_are_drawn_in_proportion_to_the_power_of_their_counts(power):
    torch.manual_seed(0)
    counts = [0, 1, 4, 9, 16, 25]
    drawn = torch.tensor([draw([0], counts, 2, power) for _ in range(4000)]).double().mean(0)
    expected = np.array([count**power if count else 0 for count in counts])
    np.testing.assert_allclose(drawn[1:], (expected / expected.sum())[1:], atol=0.03)  # four standard deviations


def test_with_all_classes_the_federated_loss_is_the_plain_sigmoid():
    logits, gt_classes = random_logits(), BATCHES["mixed"]()
    expected = build_activation("sigmoid", K).loss(logits, gt_classes).item()
    assert build_activation("federated", K, PRIOR, classes_per_batch=K + 1).loss(logits, gt_classes).item() == expected


def test_federated_draws_follow_the_seed_of_torch():
    logits, gt_classes = random_logits(), torch.full((R,), K)
    activation = build_activation("federated", K, PRIOR, classes_per_batch=3)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first = [activation.loss(logits, gt_classes).item() for _ in range(5)]
    torch.set_rng_state(state)
    assert [activation.loss(logits, gt_classes).item() for _ in range(5)] == first
    assert len(set(first)) > 1


def test_detectron2s_bias_of_zero_is_a_prior_probability_of_one_half():
    bias = torch.ones(K + 1)
    build_activation("federated", K, PRIOR, prior_probability=0.5).init_bias_(bias)
    assert not bias.any()


# ------------------------------------------------------------------ DropLoss


@ALL_BATCHES
@WEIGHTED
@SEEDS
@pytest.mark.parametrize(
    ("name", "naive_loss", "naive_gradient"),
    [
        ("drop_loss", reference.sigmoid_loss, reference.sigmoid_loss_gradient),
        ("gol", detection.gumbel_loss, detection.gumbel_loss_gradient),
    ],
)
def test_losses_that_drop_negatives_equal_naive_loops(name, naive_loss, naive_gradient, batch, weighted, seed):
    logits, gt_classes, roi_weight = random_logits(seed, scale=4.0), BATCHES[batch](), roi_weights(weighted)
    torch.manual_seed(seed)
    noise = torch.rand(R, K).tolist()
    weights = entry_weights(detection.drop_weights(gt_classes.tolist(), TAIL, noise), roi_weight)
    naive = logits.detach().numpy()[:, :K], gt_classes.tolist(), weights
    check(
        build_activation(name, K, PRIOR, threshold=THRESHOLD), logits, gt_classes, roi_weight,
        naive_loss(*naive), naive_gradient(*naive), seed,
    )  # fmt: skip


def test_the_share_of_the_tail_is_that_of_foreground_rois():
    tail = torch.tensor([True, True, False])
    assert tail_share(torch.tensor([0, 1, 2, 2, 3, 3, 3]), tail).item() == 0.5
    assert tail_share(torch.tensor([2, 3]), tail).item() == 0
    assert tail_share(torch.tensor([3, 3]), tail).item() == 1, "nothing is dropped without foreground"
    assert tail_share(torch.zeros(0, dtype=torch.int64), tail).item() == 1


def test_background_negatives_of_the_tail_are_kept_as_often_as_the_share():
    rois = 30_000
    gt_classes = torch.tensor([0] + [2] * 3 + [3] * rois)
    torch.manual_seed(0)
    noise = torch.rand(len(gt_classes), 3)
    weight = drop_loss_weights(torch.zeros(len(gt_classes), 3), gt_classes, torch.tensor([True, True, False]), noise)
    np.testing.assert_allclose(weight[4:].mean(0), [0.25, 0.25, 1], atol=0.01)  # four standard deviations
    assert weight[:4].tolist() == [[1, 0, 1]] + [[0, 0, 1]] * 3


@pytest.mark.parametrize(("gt_class", "dropped"), [(5, True), (K, False)])
def test_extreme_draws_drop_all_or_nothing(gt_class, dropped):
    """rho is 0 without tail classes in the foreground, 1 without foreground; random numbers may be 0."""
    gt_classes, tail = torch.tensor([gt_class, K]), torch.tensor(TAIL)
    for noise in (0.0, 1 - 2**-24):
        weight = drop_loss_weights(torch.zeros(2, K), gt_classes, tail, torch.full((2, K), noise))
        assert weight[1].tolist() == [0.0 if dropped and of_tail else 1.0 for of_tail in TAIL]


def test_without_a_tail_drop_loss_is_the_plain_sigmoid():
    logits, gt_classes = random_logits(), BATCHES["mixed"]()
    activation = build_activation("drop_loss", K, PRIOR, threshold=0.0015)
    assert activation.loss(logits, gt_classes).item() == sigmoid_loss(logits[:, :K], gt_classes).item()


# ------------------------------------------------------------------ Gumbel


@ALL_BATCHES
@WEIGHTED
@SEEDS
def test_gumbel_loss_equals_naive_loops(batch, weighted, seed):
    logits, gt_classes, roi_weight = random_logits(seed, scale=4.0), BATCHES[batch](), roi_weights(weighted)
    weights = entry_weights(np.ones((R, K)), roi_weight)
    naive = logits.detach().numpy()[:, :K], gt_classes.tolist(), weights
    check(
        build_activation("gumbel", K), logits, gt_classes, roi_weight,
        detection.gumbel_loss(*naive), detection.gumbel_loss_gradient(*naive), seed,
    )  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gumbel_losses_keep_their_precision_over_the_whole_range(dtype):
    """With 1 - p computed from a rounded p, the gradient of a low score would be 0 and that of a high one infinite."""
    values = torch.linspace(-3.99, 9.99, 57, dtype=torch.float64)
    logits = values.to(dtype)[:, None].requires_grad_()
    (gradient,) = torch.autograd.grad(gumbel_loss(logits, torch.ones(57).long()) * 57, logits)
    expected = [math.exp(-x) / math.expm1(math.exp(-x)) for x in values.tolist()]
    np.testing.assert_allclose(gradient[:, 0].double(), expected, rtol=1e-4 if dtype == torch.float32 else 1e-9)


def test_training_logits_are_clamped_and_test_scores_are_not():
    logits = torch.tensor([[-5.0, 12.0]], dtype=torch.float64, requires_grad=True)
    activation = build_activation("gumbel", 1)
    for gt_class in (0, 1):
        (gradient,) = torch.autograd.grad(activation.loss(logits, torch.tensor([gt_class])), logits)
        assert not gradient.any()
    scores = activation.scores(torch.tensor([[-5.0, 0.0], [12.0, 0.0], [0.0, 0.0]], dtype=torch.float64))
    assert scores[:, 0].tolist() == pytest.approx([detection.gumbel(x) for x in (-5, 12, 0)], rel=1e-12)
    assert not scores[:, 1].any()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 3e-6)])
def test_gumbel_log_odds_equal_the_naive_ones_and_are_inverted(dtype, tolerance):
    values = torch.linspace(-6, 30, 500, dtype=torch.float64)
    logits = F.pad(values.to(dtype)[:, None], (0, 1), value=0.5)
    activation = build_activation("gumbel", 1)
    log_odds = activation.class_logits(logits)
    np.testing.assert_allclose(log_odds[:, 0], [detection.gumbel_log_odds(x) for x in logits[:, 0].tolist()], tolerance)
    np.testing.assert_allclose(activation.with_class_logits(logits, log_odds), logits, tolerance, tolerance)
    torch.testing.assert_close(log_odds.sigmoid(), activation.scores(logits)[:, :1], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_gumbel_log_odds_of_extreme_logits_are_finite_and_in_order(dtype):
    logits = torch.tensor([-6e4, -90, -80, -40, -4, 0, 4, 20, 40, 90, 6e4], dtype=dtype)[:, None]
    activation = build_activation("gumbel", 1, background=False)
    log_odds = activation.class_logits(logits)
    assert log_odds.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.isfinite(log_odds).all() and (log_odds.diff(dim=0) >= 0).all()
    assert (log_odds[2:].diff(dim=0) > 0).all(), "the class of the highest score stays the same"
    assert torch.equal(log_odds[-3:], logits[-3:].to(log_odds.dtype))
    for shift in (-1e4, 0.0, 1e4):
        shifted = activation.with_class_logits(logits, log_odds + shift)
        assert torch.isfinite(shifted).all()
        scores = activation.scores(shifted)
        assert torch.isfinite(scores).all() and (scores >= 0).all() and (scores <= 1).all()


def test_the_first_gumbel_score_is_low():
    activation = build_activation("gol", K, PRIOR)
    bias = torch.empty(K + 1)
    activation.init_bias_(bias)
    assert bias.tolist() == [-2] * (K + 1)
    assert activation.scores(bias[None])[0, 0].item() == pytest.approx(0.0006, abs=5e-5)


# ------------------------------------------------------------------ effective class margins


def margin_counts(ratio=6.3313):
    return [*COUNTS, ratio * sum(COUNTS)]


@ALL_BATCHES
@WEIGHTED
@pytest.mark.parametrize("ratio", [1.5, 6.3313])
def test_effective_class_margin_loss_equals_naive_loops(batch, weighted, ratio):
    logits, gt_classes, roi_weight = random_logits(), BATCHES[batch](), roi_weights(weighted)
    weights = None if roi_weight is None else roi_weight.tolist()
    naive = logits.detach().numpy(), gt_classes.tolist(), margin_counts(ratio), weights
    check(
        build_activation("effective_class_margin", K, PRIOR, background_ratio=ratio), logits, gt_classes, roi_weight,
        detection.class_margin_loss(*naive), detection.class_margin_gradient(*naive), 0,
    )  # fmt: skip


def test_effective_class_margin_scores_leave_out_margin_and_factor():
    logits = random_logits()
    scores = build_activation("effective_class_margin", K).scores(logits)
    np.testing.assert_allclose(scores.detach(), detection.class_margin_scores(logits.tolist()), rtol=1e-12)


def test_a_class_of_all_samples_has_finite_margins():
    """K = 1 without background: there are no negatives."""
    prior = ClassPrior(("a",), [5], 5)
    activation = build_activation("effective_class_margin", 1, prior, background=False)
    logits = torch.zeros(3, 1, requires_grad=True)
    loss = activation.loss(logits, torch.zeros(3).long())
    assert 0 < loss.item() < math.inf
    assert torch.isfinite(torch.autograd.grad(loss, logits)[0]).all()


def test_its_normalized_classifier_has_a_bias_that_starts_at_zero():
    classifier = build_activation("effective_class_margin", K, temperature=15.0).classifier(4)
    assert isinstance(classifier, NormalizedLinear) and classifier.temperature == 15
    assert not classifier.bias.any() and classifier.weight.std() < 0.03


# ------------------------------------------------------------------ controls


@ALL_BATCHES
@WEIGHTED
def test_focal_loss_over_positives_equals_naive_loops(batch, weighted):
    logits, gt_classes, roi_weight = random_logits(), BATCHES[batch](), roi_weights(weighted)
    naive = logits.detach().numpy()[:, :K], gt_classes.tolist(), 2.0, 0.25
    total = R * reference_classification.sigmoid_focal_loss(*naive, None if roi_weight is None else roi_weight.tolist())
    loss = build_activation("sigmoid_focal", K, divisor="positives").loss(logits, gt_classes, roi_weight)
    assert loss.item() == pytest.approx(total / detection.positives(gt_classes.tolist(), K), rel=1e-9)


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.99])
@pytest.mark.parametrize("counts", [COUNTS, [0, *COUNTS[1:]], [0, 0, 0, 2, 1, 400]])
def test_weights_over_samples_equal_naive_loops(beta, counts):
    prior = ClassPrior(tuple("abcdef"), counts, NUM_IMAGES)
    expected = detection.sample_mean_weights(counts, beta)
    np.testing.assert_allclose(effective_number_weights(prior, beta, mean_over="samples"), expected)
    activation = build_activation("class_balanced", K, prior, beta=beta, mean_over="samples")
    assert activation.class_weight.tolist() == pytest.approx([*expected, 1.0])


def test_weights_without_any_samples_are_finite():
    prior = ClassPrior(tuple("abcdef"), [0] * K, NUM_IMAGES)
    assert effective_number_weights(prior, 0.9, mean_over="samples").tolist() == pytest.approx([1.0] * K)


def test_the_figures_for_lvis_in_the_docs():
    prior = class_prior_of_dataset("lvis_v1_train")
    share = prior.share()
    assert 1 / (effective_number_weights(prior, 0.9999) * share).sum() == pytest.approx(38, abs=0.5)
    weights = effective_number_weights(prior, 0.99, mean_over="samples")
    assert (weights * share).sum() == pytest.approx(1)
    assert (weights.min(), weights.max()) == (pytest.approx(0.83, abs=0.005), pytest.approx(83, abs=0.5))
    assert effective_number_weights(prior, 0.999, mean_over="samples").max() > 250
    tail = [build_activation("drop_loss", 1203, prior, threshold=t).tail.sum() for t in (1.00625e-3, 0.0011, 1.77e-3)]
    assert tail == [798, 815, 876]


@pytest.mark.parametrize(
    ("name", "first", "of_background"),
    [("sigmoid", 2.15, 1.2), ("sigmoid_focal", 1.73, 0.0), ("gumbel", 1.75, 0.74), ("gol", 1.75, 0.74)],
)
def test_first_losses_on_lvis_are_of_one_size(name, first, of_background):
    """With one foreground RoI per 6.33 background RoIs, as ECM's authors measured, and 1,203 classes."""
    options = {"divisor": "positives"} if name == "sigmoid_focal" else {}
    prior = ClassPrior(tuple(map(str, range(1203))), [500] * 1203, 1000)
    activation = build_activation(name, 1203, prior, **options)
    gt_classes = torch.tensor([7] * 3 + [1203] * 19)
    bias = torch.empty(1204)
    activation.init_bias_(bias)
    logits = bias.expand(len(gt_classes), -1)
    assert activation.loss(logits, gt_classes).item() == pytest.approx(first, abs=0.05)
    background = torch.full((5,), 1203)
    assert activation.loss(logits[:5], background).item() == pytest.approx(of_background, abs=0.05)


# ------------------------------------------------------------------ options


@pytest.mark.parametrize("name", ["equalization", "drop_loss", "gol", "softmax_equalization"])
def test_a_warning_about_an_empty_tail_names_the_activation(name, package_log):
    activation = build_activation(name, K, PRIOR, threshold=1e-6)
    with package_log.at_level(logging.WARNING, "balanced_lvis"):
        assert not activation.tail.any()
    assert f"{name} treats no class differently: no class is in the tail (threshold 1e-06" in package_log.text


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("federated", {"classes_per_batch": 0}, "classes_per_batch of federated is 0"),
        ("federated", {"classes_per_batch": 2.5}, "classes_per_batch of federated is 2.5"),
        ("federated", {"power": -1}, "power of federated is -1"),
        ("federated", {"power": float("nan")}, "power of federated is nan"),
        ("drop_loss", {"threshold": 0}, "threshold of drop_loss is 0"),
        ("drop_loss", {"tail_groups": "x"}, "tail_groups of drop_loss is 'x'"),
        ("gol", {"threshold": 2}, "threshold of gol is 2"),
        ("gol", {"tail_groups": "x"}, "tail_groups of gol is 'x'"),
        ("gumbel", {"initial_bias": -5}, "initial_bias is -5"),
        ("effective_class_margin", {"background_ratio": -1}, "background_ratio of effective_class_margin is -1"),
        ("effective_class_margin", {"temperature": 0}, "temperature of effective_class_margin is 0"),
        ("effective_class_margin", {"count": "pixel"}, "'pixel'"),
        ("sigmoid_focal", {"divisor": "images"}, "divisor of sigmoid_focal is 'images'"),
        ("class_balanced", {"mean_over": "images"}, "mean_over is 'images'"),
    ],
)
def test_invalid_options_are_named(name, options, message):
    with pytest.raises(InputError, match=message):
        build_activation(name, K, PRIOR, **options)
