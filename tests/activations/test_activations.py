"""What holds for every activation, and each one against its naive derivation."""

import logging
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from balanced_lvis.activations import (
    Activation,
    activation_class,
    activation_names,
    balanced_softmax_loss,
    build_activation,
    equalization_loss,
    register_activation,
    sigmoid_loss,
    softmax_loss,
)
from balanced_lvis.data.training_prior import class_prior_of_dataset
from balanced_lvis.priors import ClassPrior
from balanced_lvis.utils.errors import InputError
from tests import reference
from tests.activations import toys
from tests.activations.batches import K, batch, roi_weights

IMAGE_COUNT = [1, 5, 20, 60, 150, 400]
INSTANCE_COUNT = [1, 9, 20, 200, 160, 4000]
NUM_IMAGES = 500

NAMES = [*activation_names(), toys.COUNTING, toys.OBJECTNESS]
# Options under which a method does something with these counts.
OPTIONS = {
    "equalization": {"threshold": 0.05},
    "softmax_equalization": {"threshold": 0.05, "gamma": 0.5},
    "class_balanced": {"beta": 0.99},
    "acsl": {"common_share": 0.5, "rare_share": 0.3},
    "ldam": {"scale": 3.0, "beta": 0.99, "drw_start": 0},
    "federated": {"classes_per_batch": 3},
    "drop_loss": {"threshold": 0.05},
    "gol": {"threshold": 0.05},
}
FAMILIES = ("sigmoid", "softmax", "gumbel", "sigmoid_background", "seesaw")
# Options under which a background without RoIs has no part in the loss.
NO_BACKGROUND = {"effective_class_margin": {"background_ratio": 0.0}}


STATEFUL = {toys.COUNTING, "equalization_v2", "seesaw", "equilibrium", "fcbl"}


pytestmark = pytest.mark.usefixtures("toy_activations")


def build(name, prior, **options) -> Activation:
    activation = build_activation(name, K, prior, **OPTIONS.get(name, {}), **options)
    return activation if activation.deterministic else seeded(activation)


def seeded(activation):
    """Draw the same random numbers in each loss."""
    loss = activation.loss

    def seeded_loss(*args):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return loss(*args)

    activation.loss = seeded_loss
    return activation


def needs(name, declared):
    """Skip the test of what an activation declares not to have."""
    if not getattr(activation_class(name), declared):
        pytest.skip(f"{name} declares {declared} = False")


def plain_activation(name) -> Activation:
    """The activation of the same family without a prior."""
    family = activation_class(name).family
    if family not in activation_names() or family == name:
        pytest.skip(f"{name} has no other activation of its family")
    return build_activation(family, K)


@pytest.fixture
def prior():
    return ClassPrior(tuple("abcdef"), IMAGE_COUNT, NUM_IMAGES, INSTANCE_COUNT)


def loss_and_gradient(activation, logits, gt_classes, roi_weight=None):
    loss = activation.loss(logits, gt_classes, roi_weight)
    (gradient,) = torch.autograd.grad(loss, logits)
    return loss.item(), gradient.numpy()


# ------------------------------------------------------------------ against the references


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


# ------------------------------------------------------------------ what holds for all


@pytest.mark.parametrize("name", activation_names())
def test_every_activation_is_of_a_family(name):
    assert activation_class(name).family in FAMILIES


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_weights_of_one_are_exactly_the_unweighted_loss(prior, name, dtype):
    activation = build(name, prior)
    logits, gt_classes = batch(rois=301, dtype=dtype, outputs=activation.num_outputs)
    losses = [activation.loss(logits, gt_classes), activation.loss(logits, gt_classes, torch.ones(301))]
    plain, weighted = (torch.autograd.grad(loss, logits)[0] for loss in losses)
    assert losses[0].dtype == losses[1].dtype
    assert losses[0].item() == losses[1].item()
    assert torch.equal(plain, weighted)


@pytest.mark.parametrize("name", NAMES)
def test_scores_sum_to_one_where_that_is_declared(prior, name):
    """Calibrations depend on it."""
    activation = build(name, prior)
    total = activation.scores(batch(outputs=activation.num_outputs)[0]).sum(dim=1)
    assert torch.allclose(total, torch.ones_like(total)) == activation.normalized_scores


@pytest.mark.parametrize("name", NAMES)
def test_class_logits_can_be_replaced(prior, name):
    activation = build(name, prior)
    logits = batch(outputs=activation.num_outputs)[0].detach()
    # Exactly, where they are columns of the logits.
    assert_equal = torch.testing.assert_close if type(activation).class_logits is not Activation.class_logits else exact
    assert_equal(activation.with_class_logits(logits, activation.class_logits(logits)), logits)
    other = activation.with_class_logits(logits, activation.class_logits(logits) + 1)
    assert_equal(activation.class_logits(other), activation.class_logits(logits) + 1)
    assert torch.equal(other[:, K:], logits[:, K:])


def exact(found, expected):
    assert torch.equal(found, expected)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_arguments_give_the_same_loss(prior, name):
    needs(name, "deterministic")
    activation = build(name, prior)
    logits, gt_classes = batch(outputs=activation.num_outputs)
    assert activation.loss(logits, gt_classes).item() == activation.loss(logits, gt_classes).item()


@pytest.mark.parametrize("name", NAMES)
def test_roi_weights_are_differentiable_through_a_step_on_the_weighted_loss(prior, name):
    """What meta re-weighting needs: the derivative, by the weights, of a loss after an SGD step on the weighted one."""
    needs(name, "exact_gradient")
    activation = build(name, prior)
    logits, gt_classes = batch(rois=3, outputs=activation.num_outputs)
    weight = torch.tensor([0.2, 1.0, 1.7], dtype=torch.float64, requires_grad=True)

    def loss_after_a_step(weight):
        loss = activation.loss(logits, gt_classes, weight)
        (gradient,) = torch.autograd.grad(loss, logits, create_graph=True)
        return activation.unshifted_loss(logits - 0.5 * gradient, gt_classes.flip(0))

    assert torch.autograd.gradcheck(loss_after_a_step, weight)


@pytest.mark.parametrize("name", NAMES)
def test_the_unshifted_loss_is_that_of_the_family_without_a_prior(prior, name):
    logits, gt_classes = batch()
    plain = plain_activation(name)
    unshifted = build(name, prior).unshifted_loss(logits, gt_classes)
    assert unshifted.item() == plain.loss(logits, gt_classes).item()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_no_rois_give_a_zero_loss_with_gradients(prior, name, weighted):
    activation = build(name, prior)
    logits = torch.zeros(0, activation.num_outputs, requires_grad=True)
    no_classes = torch.zeros(0, dtype=torch.int64)
    loss = activation.loss(logits, no_classes, torch.zeros(0) if weighted else None)
    loss.backward()
    assert activation.unshifted_loss(logits, no_classes).item() == 0
    assert loss.item() == 0
    assert logits.grad.shape == (0, activation.num_outputs)
    assert activation.scores(logits).shape == (0, K + 1)


@pytest.mark.parametrize("name", NAMES)
def test_inputs_are_never_mutated(prior, name):
    activation = build(name, prior)
    logits, gt_classes = batch(outputs=activation.num_outputs)
    weight = roi_weights()
    before = logits.detach().clone(), gt_classes.clone(), weight.clone()
    state = {key: tensor.clone() for key, tensor in activation.state_dict().items()}
    activation.loss(logits, gt_classes).backward()
    activation.loss(logits, gt_classes, weight).backward()
    activation.unshifted_loss(logits, gt_classes).backward()
    activation.scores(logits)
    assert torch.equal(logits, before[0])
    assert torch.equal(gt_classes, before[1])
    assert torch.equal(weight, before[2])
    assert all(torch.equal(tensor, state[key]) for key, tensor in activation.state_dict().items())


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_half_precision_logits_are_computed_in_float32(prior, name, dtype, weighted):
    activation = build(name, prior)
    logits, gt_classes = batch(dtype=dtype, outputs=activation.num_outputs)
    weight = roi_weights(weighted)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = activation.loss(logits, gt_classes, weight)
        assert activation.unshifted_loss(logits, gt_classes).dtype == torch.float32
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(activation.loss(logits.float(), gt_classes, weight).item(), rel=1e-6)
    assert torch.isfinite(torch.autograd.grad(loss, logits)[0]).all()
    assert torch.isfinite(activation.scores(logits)).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", NAMES)
def test_losses_are_float32_and_the_same_under_autocast(prior, name, dtype):
    """For the whole head would run in half precision there, sums over 1,203 classes included."""
    activation = build(name, prior)
    logits, gt_classes = batch(dtype=dtype, outputs=activation.num_outputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = activation.loss(logits, gt_classes)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, activation.loss(logits.float(), gt_classes))


@pytest.mark.parametrize("extreme", [0.0, 60.0, -60.0, 3e4, -3e4])
@pytest.mark.parametrize("name", NAMES)
def test_loss_and_gradient_are_finite_for_counts_0_and_1_and_extreme_logits(name, extreme):
    activation = build(name, ClassPrior(tuple("abcdef"), [0, 1, 1, 10, 10, 10], 10))
    logits = torch.full((K + 1, activation.num_outputs), extreme, requires_grad=True)
    loss, gradient = loss_and_gradient(activation, logits, torch.arange(K + 1))
    assert math.isfinite(loss)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("name", NAMES)
def test_gradients_agree_with_finite_differences(prior, name):
    needs(name, "exact_gradient")
    activation = build(name, prior)
    logits, gt_classes = batch(rois=4, outputs=activation.num_outputs)
    assert torch.autograd.gradcheck(lambda x: activation.loss(x, gt_classes), logits)
    weight = torch.tensor([0.0, 0.5, 1.0, 3.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, w: activation.loss(x, gt_classes, w), (logits, weight))


@pytest.mark.parametrize("name", NAMES)
def test_uniform_counts_change_nothing(name):
    needs(name, "neutral_at_uniform_counts")
    uniform = ClassPrior(tuple("abcdef"), [10] * K, 100)
    logits, gt_classes = batch()
    expected = plain_activation(name).loss(logits, gt_classes).item()
    assert build(name, uniform).loss(logits, gt_classes).item() == pytest.approx(expected)


@pytest.mark.parametrize("name", NAMES)
def test_state_dicts_of_stock_checkpoints_stay_usable(prior, name):
    activation = build(name, prior)
    activation.prepare()
    assert set(activation.state_dict()) == set(activation.states)
    assert bool(activation.states) == (name in STATEFUL)


@pytest.mark.parametrize("name", NAMES)
def test_scores_and_class_logits_have_a_column_per_class(prior, name):
    activation = build(name, prior)
    logits, _ = batch(outputs=activation.num_outputs)
    scores = activation.scores(logits)
    assert scores.shape == (40, K + 1) and activation.class_logits(logits).shape == (40, K)
    assert (scores >= 0).all() and (scores <= 1).all()
    # The best class is that of the highest logit.
    assert torch.equal(activation.class_logits(logits).argmax(1), scores[:, :K].argmax(1))


@pytest.mark.parametrize("name", NAMES)
def test_the_classifier_makes_the_logits(prior, name):
    activation = build(name, prior)
    logits = activation.classifier(5)(torch.randn(3, 5))
    assert logits.shape == (3, activation.num_outputs)
    assert math.isfinite(activation.loss(logits, torch.tensor([0, 1, K])).item())


@pytest.mark.parametrize("name", activation_names())
def test_scores_and_classifier_need_no_prior_and_the_loss_says_so(name):
    activation = build_activation(name, K)
    logits = activation.classifier(5)(torch.randn(3, 5))
    assert activation.scores(logits).shape == (3, K + 1)
    if activation.needs_prior:
        with pytest.raises(InputError, match="needs prior="):
            activation.loss(logits, torch.zeros(3).long())


@pytest.mark.parametrize("name", activation_names())
def test_a_prior_is_asked_for_once_and_only_by_the_loss(prior, name):
    asked = []
    activation = build_activation(name, K, lambda: asked.append(1) or prior)
    logits, gt_classes = batch(outputs=activation.num_outputs)
    activation.scores(logits)
    assert not asked
    for _ in range(2):
        activation.loss(logits, gt_classes)
    assert len(asked) == activation.needs_prior


@pytest.mark.parametrize("name", activation_names())
def test_without_background_there_are_k_outputs_and_the_loss_of_foreground_alone(prior, name):
    with_background = build(name, prior, **NO_BACKGROUND.get(name, {}))
    without = build(name, prior, background=False)
    logits, _ = batch(outputs=K)
    gt_classes = torch.arange(40) % K
    assert without.num_outputs == K and without.scores(logits).shape == (40, K)
    # A background logit of minus infinity has no share in a softmax; a sigmoid's is not read, or has no loss.
    others = [0.0] * (with_background.num_outputs - K - 1) + [-1e9]
    padded = torch.cat([logits, torch.tensor(others, dtype=torch.float64).expand(40, -1)], 1)
    assert without.loss(logits, gt_classes).item() == pytest.approx(with_background.loss(padded, gt_classes).item())
    torch.testing.assert_close(without.scores(logits), with_background.scores(padded)[:, :K])


@pytest.mark.parametrize("name", activation_names())
def test_the_training_shift_is_what_the_loss_adds_to_the_logits(prior, name):
    activation = build(name, prior)
    shift = activation.training_shift()
    if shift is None:
        assert name not in ("balanced_sigmoid", "balanced_softmax")
        return
    assert shift.shape == (K,) and shift.dtype == np.float64
    logits, gt_classes = batch()
    shifted = logits + torch.nn.functional.pad(torch.from_numpy(shift), (0, 1))
    assert activation.loss(logits, gt_classes).item() == pytest.approx(
        activation.unshifted_loss(shifted, gt_classes).item(), rel=1e-6
    )


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


# ------------------------------------------------------------------ equalization's tail


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
        (lambda p: build_activation("balanced_sigmoid", K).prepare(), "needs prior="),
        (lambda p: build_activation("balanced_sigmoid", 5, p), "num_classes is 5, but the class prior has 6"),
        (lambda p: build_activation("balanced_sigmoid", K, p, form="both"), "'both'; valid: centred, foreground"),
        (lambda p: build_activation("balanced_softmax", K, p, count="pixel"), "'pixel'"),
        (lambda p: build_activation("sigmoid", K, prior_probability=0), "prior_probability is 0"),
        (lambda p: build_activation("equalization", K).prepare(), "needs prior="),
        (lambda p: build_activation("equalization", K, p, threshold=0), "threshold of equalization is 0"),
        (lambda p: build_activation("equalization", K, p, threshold=1.5), "threshold of equalization is 1.5"),
        (lambda p: build_activation("equalization", K, p, threshold=float("nan")), "threshold of equalization is nan"),
        (lambda p: build_activation("equalization", K, p, tail_groups="rx"), "'rx'; 'x' is not one of the groups"),
        (lambda p: build_activation("sigmoid", K, form="raw"), "no option 'form'; valid: prior_probability"),
        (lambda p: build_activation("softmax", K, foo=1), "no option 'foo'; valid: none"),
        (lambda p: build_activation("sigmoid", K).loss(torch.zeros(3, K), torch.zeros(3).long()), r"\(3, 6\)"),
        (lambda p: build_activation("softmax", K).scores(torch.zeros(3, K + 2)), r"\(3, 8\)"),
    ],
)
def test_bad_arguments_are_named(prior, build, message):
    with pytest.raises(InputError, match=message):
        build(prior)


@pytest.mark.parametrize("name", activation_names())
def test_roi_weights_of_another_shape_are_refused(prior, name):
    activation = build_activation(name, K, prior)
    logits, gt_classes = batch(rois=3, outputs=activation.num_outputs)
    for weight in (torch.ones(3, 1), torch.ones(1), torch.ones(())):
        with pytest.raises(InputError, match=r"roi_weight has shape .*; with 3 RoIs it must be \(3,\)"):
            activation.loss(logits, gt_classes, weight)


@pytest.mark.parametrize("name", activation_names())
def test_the_unshifted_loss_checks_its_logits_too(prior, name):
    with pytest.raises(InputError, match=r"\(3, 6\)"):
        build_activation(name, K, prior).unshifted_loss(torch.zeros(3, K), torch.zeros(3).long())
