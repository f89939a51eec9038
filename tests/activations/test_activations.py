"""What holds for every activation."""

import math

import numpy as np
import pytest
import torch

from balanced_lvis.activations import Activation, activation_class, activation_names, build_activation
from balanced_lvis.priors import ClassPrior
from balanced_lvis.utils.errors import InputError
from tests.activations import toys
from tests.activations.batches import K, batch, loss_and_gradient, roi_weights

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
