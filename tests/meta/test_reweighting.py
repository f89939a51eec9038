import copy

import numpy as np
import pytest
import torch
from torch import nn

from balanced_lvis.activations import build_activation
from balanced_lvis.meta import ClassWeights, MetaReweighter
from balanced_lvis.modeling.decoupled import ScaledLinear
from balanced_lvis.priors import ClassPrior
from balanced_lvis.utils.errors import InputError
from tests import reference

K, D = 5, 3
PRIOR = ClassPrior(tuple("abcde"), [1, 5, 20, 60, 150], 200)


def batch(size, seed):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(size, D, generator=generator, dtype=torch.float64)
    return features, torch.randint(0, K + 1, (size,), generator=generator)


def reweighter(psi=None, lr=0.01, activation="balanced_sigmoid", **options):
    meta = MetaReweighter(build_activation(activation, K, PRIOR, **options), lr)
    meta.weights.double()
    if psi is not None:
        meta.weights.psi.data = torch.tensor(psi, dtype=torch.float64)
    return meta


def classifier():
    torch.manual_seed(3)
    return nn.Linear(D, K + 1).double()


@pytest.mark.parametrize("form", ["centred", "foreground"])
@pytest.mark.parametrize("psi", [[0.0] * K, [-1.0, 0.5, 2.0, -0.3, 0.1]])
def test_the_meta_gradient_equals_finite_differences_of_the_naive_outer_loss(form, psi):
    meta, layer = reweighter(psi, form=form), classifier()
    inner, outer = batch(12, 0), batch(9, 1)
    loss = meta.outer_loss(layer, inner, outer, inner_lr=0.7)
    (gradient,) = torch.autograd.grad(loss, [meta.weights.psi])

    activation = meta.activation
    arrays = [[part.numpy() for part in pair] for pair in (inner, outer)]
    weight, bias = layer.weight.detach().numpy()[:K], layer.bias.detach().numpy()[:K]

    def naive(values):
        offset = activation.offset.numpy()
        return reference.meta_outer_loss(values, weight, bias, *arrays, offset, activation.foreground_only, 0.7)

    assert loss.item() == pytest.approx(naive(psi), rel=1e-6)
    np.testing.assert_allclose(gradient, reference.finite_differences(naive, psi), rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("activation", ["balanced_softmax", "equalization", "sigmoid"])
def test_the_meta_gradient_of_any_activation_equals_finite_differences(activation):
    psi = [-1.0, 0.5, 2.0, -0.3, 0.1]
    meta, layer = reweighter(psi, activation=activation), classifier()

    def outer(values):
        meta.weights.psi.data = torch.tensor(np.array(values))
        return meta.outer_loss(layer, batch(12, 0), batch(9, 1), inner_lr=0.5).item()

    expected = reference.finite_differences(outer, psi)
    loss = meta.outer_loss(layer, batch(12, 0), batch(9, 1), inner_lr=0.5)
    np.testing.assert_allclose(torch.autograd.grad(loss, [meta.weights.psi])[0], expected, rtol=1e-4, atol=1e-8)


def test_the_outer_loss_knows_no_prior():
    """What was wrong in the published code: logits shifted in place leaked into it."""
    meta, layer = reweighter(), classifier()
    features, gt_classes = batch(9, 1)
    loss = meta.outer_loss(layer, batch(12, 0), (features, gt_classes), inner_lr=0.0)
    logits = layer(features).detach()[:, :K].numpy()
    assert loss.item() == pytest.approx(reference.sigmoid_loss(logits, gt_classes.tolist()), rel=1e-12)


def test_a_step_changes_the_weights_and_nothing_of_the_classifier():
    meta, layer = reweighter(), classifier()
    before = [p.clone() for p in layer.parameters()]
    first = meta.step(layer, batch(12, 0), batch(9, 1), inner_lr=0.5)
    for _ in range(100):
        last = meta.step(layer, batch(12, 0), batch(9, 1), inner_lr=0.5)
    assert last < first
    assert all(torch.equal(a, b) and b.grad is None for a, b in zip(before, layer.parameters()))


def test_roi_weights_are_those_of_the_naive_loops():
    weights = ClassWeights(K).double()
    weights.psi.data = torch.tensor([-1.0, 0.5, 2.0, -0.3, 0.1], dtype=torch.float64)
    gt_classes = torch.tensor([0, 5, 2, 2, 4, 5, 1])
    expected = reference.class_weights_of_rois(weights.psi.tolist(), gt_classes.tolist())
    np.testing.assert_allclose(weights(gt_classes).detach(), expected, rtol=1e-12)


@pytest.mark.parametrize("value", [0.0, -1.7, 0.3, 5.0])
@pytest.mark.parametrize("size", [1, 7, 512, 8192])
def test_equal_weights_are_exactly_one(value, size):
    weights = ClassWeights(K)
    nn.init.constant_(weights.psi, value)
    assert torch.equal(weights(torch.randint(0, K + 1, (size,))), torch.ones(size))


def test_a_batch_without_foreground_teaches_nothing():
    meta, layer = reweighter(), classifier()
    features, _ = batch(12, 0)
    background = torch.full((12,), K)
    meta.step(layer, (features, background), batch(9, 1), inner_lr=0.5)
    assert torch.equal(meta.weights.psi.detach(), torch.zeros(K, dtype=torch.float64))


def test_learning_goes_on_from_a_saved_state():
    straight, layer = reweighter(), classifier()
    for index in range(6):
        if index == 3:
            saved = copy.deepcopy(straight.state_dict())
            resumed = reweighter()
            resumed.load_state_dict(saved)
        straight.step(layer, batch(12, index), batch(9, 50 + index), inner_lr=0.5)
    for index in range(3, 6):
        resumed.step(layer, batch(12, index), batch(9, 50 + index), inner_lr=0.5)
    assert torch.equal(straight.weights.psi, resumed.weights.psi)


def test_only_what_trains_of_a_scaled_classifier_moves_in_the_inner_step():
    layer = ScaledLinear(nn.Linear(D, K + 1).double())
    layer.weight.requires_grad = layer.bias.requires_grad = False
    meta = reweighter()
    meta.step(layer, batch(12, 0), batch(9, 1), inner_lr=0.5)
    assert meta.weights.psi.abs().sum() > 0


def test_a_class_that_hurts_the_others_loses_weight():
    """Mislabelled RoIs of class 0 pull the classifier away from what the clean meta batch asks for."""
    generator = torch.Generator().manual_seed(0)
    true = torch.arange(K).repeat(20)
    noise = 0.1 * torch.randn(len(true), K, generator=generator, dtype=torch.float64)
    features = 3 * torch.eye(K, dtype=torch.float64)[true] + noise
    taught = torch.where(true == 1, 0, true)  # all that is class 1 is called class 0
    meta, layer = reweighter(activation="sigmoid"), nn.Linear(K, K + 1).double()
    for _ in range(200):
        meta.step(layer, (features, taught), (features, true), inner_lr=1.0)
    used = meta.weights.values()[[0, 2, 3, 4]]  # nothing is taught as class 1, so nothing is learned of its weight
    assert used.argmin() == 0


def test_a_negative_learning_rate_is_refused():
    with pytest.raises(InputError, match=r"SOLVER.META.LR is -1"):
        reweighter(lr=-1)
