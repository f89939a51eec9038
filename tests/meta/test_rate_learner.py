"""The Meta Sampler's bilevel step, for image classification."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from balanced_lvis.activations import build_activation
from balanced_lvis.meta import MetaReweighter, MetaSampler, RateLearner
from balanced_lvis.priors import ClassPrior
from balanced_lvis.utils.errors import InputError
from tests import reference
from tests import reference_classification as naive

K, D, SIZE = 4, 3, 16
COUNTS = [50, 20, 5, 1]
PRIOR = ClassPrior(tuple("abcd"), COUNTS, sum(COUNTS))
PSI = [0.4, -0.7, 1.1, 0.2]
CLASSIFICATION = ["softmax", "balanced_softmax", "class_balanced", "class_balanced_weighting", "focal"]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def features(size, seed):
    return torch.randn(size, D, generator=generator(seed), dtype=torch.float64)


def classifier():
    torch.manual_seed(3)
    return nn.Linear(D, K).double()


def learner(psi=None, lr=0.01, tau=1.0, counts=COUNTS, activation="balanced_softmax", **options):
    sampler = MetaSampler(K, tau, counts).double()
    if psi is not None:
        sampler.psi.data = torch.tensor(psi, dtype=torch.float64)
    return RateLearner(build_activation(activation, K, PRIOR, background=False, **options), sampler, lr)


def drawn(made, seed=7):
    """A batch as the sampler draws it, and its weights."""
    classes, weights = made.sampler(SIZE, generator(seed))
    return (features(SIZE, seed), classes), weights


def meta_batch():
    return features(2 * K, 1), torch.arange(K).repeat(2)


# ------------------------------------------------------------------ rates


def test_rates_start_at_the_class_frequencies_if_counts_are_given():
    np.testing.assert_allclose(MetaSampler(K, counts=COUNTS).rates(), np.array(COUNTS) / sum(COUNTS), rtol=1e-5)


def test_rates_are_those_of_the_naive_loops_and_of_the_draws():
    made, draws = learner(PSI), 40_000
    expected = naive.sampling_rates(PSI, COUNTS)
    np.testing.assert_allclose(made.sampler.rates(), expected, rtol=1e-6)
    classes, _ = made.sampler(draws, generator())
    found = torch.bincount(classes, minlength=K) / draws
    np.testing.assert_allclose(found, expected, atol=4 * 0.5 / np.sqrt(draws))


def test_only_psi_is_state():
    assert set(MetaSampler(K, counts=COUNTS).state_dict()) == {"psi"}


# ------------------------------------------------------------------ the gradient of the rates


@pytest.mark.parametrize("tau", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("counts", [COUNTS, None])
def test_the_meta_gradient_equals_finite_differences_of_the_naive_outer_loss(counts, tau):
    made, layer = learner(PSI, tau=tau, counts=counts), classifier()
    batch, weights = drawn(made)
    loss = made.outer_loss(layer, batch, weights, meta_batch(), inner_lr=0.7)
    (gradient,) = torch.autograd.grad(loss, [made.sampler.psi])

    uniform = torch.rand(SIZE, K, generator=generator(7))
    noise = (-torch.log(-torch.log(uniform.clamp(1e-20, 1 - 1e-7)))).tolist()
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    arrays = [[part.numpy() for part in pair] for pair in (batch, meta_batch())]

    def outer(psi):
        v = naive.relaxed_weights(psi, PSI, noise, tau, counts)
        return naive.sampled_outer_loss(v, weight, bias, *arrays, COUNTS, 0.7)

    assert loss.item() == pytest.approx(outer(PSI), rel=1e-6)
    np.testing.assert_allclose(gradient, reference.finite_differences(outer, PSI), rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("activation", [*CLASSIFICATION, "ldam"])
def test_the_meta_gradient_of_any_activation_equals_finite_differences_in_the_weights(activation):
    made = learner(PSI, activation=activation)
    torch.manual_seed(0)
    layer = made.activation.classifier(D).double()
    batch, _ = drawn(made)

    def outer(values):
        values = torch.tensor(np.array(values), requires_grad=True)
        return made.outer_loss(layer, batch, values, meta_batch(), inner_lr=0.5)

    at = [0.5, 1.0, 1.5, 1.0] * (SIZE // 4)
    values = torch.tensor(at, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(made.outer_loss(layer, batch, values, meta_batch(), inner_lr=0.5), [values])
    expected = reference.finite_differences(lambda v: outer(v).item(), at)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-8)
    assert np.abs(expected).max() > 1e-5


def test_the_outer_loss_is_not_shifted():
    made, layer = learner(PSI), classifier()
    batch, weights = drawn(made)
    loss = made.outer_loss(layer, batch, weights, meta_batch(), inner_lr=0.0)
    x, gt_classes = meta_batch()
    assert loss.item() == pytest.approx(nn.functional.cross_entropy(layer(x), gt_classes).item(), rel=1e-12)


# ------------------------------------------------------------------ steps


def test_a_learning_rate_of_zero_keeps_the_rates():
    made, layer = learner(PSI, lr=0.0), classifier()
    for seed in range(3):
        made.step(layer, *drawn(made, seed), meta_batch(), inner_lr=0.5)
    assert made.sampler.psi.tolist() == PSI


def test_a_step_changes_the_rates_and_nothing_of_the_classifier():
    made, layer = learner(), classifier()
    before = [p.clone() for p in layer.parameters()]
    made.step(layer, *drawn(made), meta_batch(), inner_lr=0.5)
    assert (made.sampler.psi != 0).all()
    assert all(torch.equal(a, b) and b.grad is None for a, b in zip(before, layer.parameters()))


def test_a_loss_that_is_not_finite_changes_nothing_and_is_reported_once(caplog):
    made, layer = learner(PSI), classifier()
    (x, classes), weights = drawn(made)
    made.step(layer, (x * float("nan"), classes), weights, meta_batch(), inner_lr=0.5)
    (x, classes), weights = drawn(made)
    made.step(layer, (x * float("nan"), classes), weights, meta_batch(), inner_lr=0.5)
    assert made.sampler.psi.tolist() == PSI
    assert made.skipped == 2 and caplog.text.count("update is skipped") == 1


def test_a_resumed_run_has_the_rates_of_an_uninterrupted_one():
    straight, layer = learner(), classifier()
    for index in range(6):
        if index == 3:
            saved = copy.deepcopy(straight.state_dict())
            resumed = learner(lr=0.01)
            resumed.load_state_dict(saved)
        straight.step(layer, *drawn(straight, index), meta_batch(), inner_lr=0.5)
    for index in range(3, 6):
        resumed.step(layer, *drawn(resumed, index), meta_batch(), inner_lr=0.5)
    assert torch.equal(straight.sampler.psi, resumed.sampler.psi)


def test_rates_leave_a_class_whose_labels_are_wrong():
    """Draws of class 2 are labelled 0: they harm what the outer loss asks for."""
    x = 2 * torch.eye(3).repeat(10, 1)
    true = torch.arange(3).repeat(10)
    taught = torch.where(true == 2, 0, true)
    sampler = MetaSampler(3, counts=[10, 10, 10])
    activation = build_activation("softmax", 3, background=False)
    made, layer, noise = RateLearner(activation, sampler, lr=0.05), nn.Linear(3, 3), generator(1)
    members = [torch.nonzero(true == j)[:, 0].tolist() for j in range(3)]
    optimizer = torch.optim.SGD(layer.parameters(), 0.5)
    for _ in range(150):
        indices, weights = sampler.draw(members, 32, noise)
        batch = x[indices], taught[indices]
        made.step(layer, batch, weights, (x, true), inner_lr=0.5)
        optimizer.zero_grad()
        activation.loss(layer(batch[0]), batch[1]).backward()
        optimizer.step()
    assert sampler.rates().argmin() == 2
    assert sampler.rates()[2] < 0.25


@pytest.mark.parametrize("activation", CLASSIFICATION)
def test_reweighting_works_without_background(activation):
    meta = MetaReweighter(build_activation(activation, K, PRIOR, background=False))
    meta.weights.double()
    gt_classes = torch.randint(0, K, (SIZE,), generator=generator(2))
    batch, layer = (features(SIZE, 0), gt_classes), classifier()
    psi = meta.weights.psi

    def outer(values):
        psi.data = torch.tensor(np.array(values))
        return meta.outer_loss(layer, batch, meta_batch(), inner_lr=0.5).item()

    expected = reference.finite_differences(outer, PSI)
    psi.data = torch.tensor(PSI, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(meta.outer_loss(layer, batch, meta_batch(), inner_lr=0.5), [psi])
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-8)


# ------------------------------------------------------------------ invalid input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MetaSampler(3, counts=[1, 2]), "counts has 2 numbers for 3 classes"),
        (lambda: MetaSampler(3, counts=[1, 0, 2]), "a class has the count 0"),
        (lambda: learner(lr=-1), "SOLVER.META.LR is -1"),
        (
            lambda: learner().outer_loss(classifier(), (features(2, 0), torch.tensor([0, 1])), torch.ones(2), (), 0.1),
            "weights carry no gradient",
        ),
    ],
)
def test_invalid_input_is_explained(call, message):
    with pytest.raises(InputError, match=message):
        call()
