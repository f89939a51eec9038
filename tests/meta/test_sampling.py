import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call

from balanced_lvis.meta import MetaSampler, one_step_ahead
from balanced_lvis.utils.errors import InputError
from tests import reference


def sampler(psi, tau=1.0):
    made = MetaSampler(len(psi), tau)
    made.psi.data = torch.tensor(psi, dtype=torch.float32)
    return made


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("tau", [0.2, 1.0, 5.0])
def test_classes_fall_at_the_rates_of_a_softmax_whatever_the_temperature(tau):
    made, draws = sampler([1.0, 0.0, -1.0, 0.5], tau), 40_000
    classes, _ = made(draws, generator())
    found = torch.bincount(classes, minlength=4) / draws
    rates = np.exp([1.0, 0.0, -1.0, 0.5]) / np.exp([1.0, 0.0, -1.0, 0.5]).sum()
    np.testing.assert_allclose(made.rates(), rates, rtol=1e-6)
    np.testing.assert_allclose(found, rates, atol=4 * 0.5 / np.sqrt(draws))  # four standard deviations at most


def test_all_classes_start_at_the_same_rate():
    assert torch.equal(MetaSampler(4).rates(), torch.full((4,), 0.25))


@pytest.mark.parametrize("tau", [0.5, 1.0, 3.0])
def test_weights_are_one_and_carry_the_relaxed_draws_gradient(tau):
    made, size = sampler([0.3, -0.2, 0.9], tau), 20
    noise = -torch.log(-torch.log(torch.rand(size, 3, generator=generator(4))))
    coefficients = torch.linspace(-1, 2, size)
    classes, weights = made(size, generator(4))
    assert torch.equal(classes, (made.psi.detach() + noise).argmax(dim=1))
    torch.testing.assert_close(weights.detach(), torch.ones(size), rtol=0, atol=0)
    (coefficients * weights).sum().backward()
    expected = reference.straight_through_gradient(made.psi.tolist(), noise.tolist(), tau, coefficients.tolist())
    np.testing.assert_allclose(made.psi.grad, expected, rtol=1e-4, atol=1e-6)


def test_rates_leave_a_class_whose_labels_are_wrong():
    """The bilevel use: sampling class 2 spoils what the outer loss asks for, and is sampled ever less."""
    features = 2 * torch.eye(3).repeat(10, 1)
    true = torch.arange(3).repeat(10)
    taught = torch.where(true == 2, 0, true)
    made, outer = MetaSampler(3), nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(made.parameters(), lr=0.05)
    model, noise = nn.Linear(3, 3), generator(1)
    members = [torch.nonzero(true == j)[:, 0].tolist() for j in range(3)]
    for _ in range(150):
        indices, weights = made.draw(members, 32, noise)

        def inner(parameters, indices=indices, weights=weights):
            logits = functional_call(model, parameters, (features[indices],))
            return (weights * nn.functional.cross_entropy(logits, taught[indices], reduction="none")).mean()

        ahead = one_step_ahead(model, inner, 0.5)
        optimizer.zero_grad()
        outer(functional_call(model, ahead, (features,)), true).backward()
        optimizer.step()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(ahead[name])
    assert made.rates().argmin() == 2
    assert made.rates()[2] < 0.2


def test_a_batch_holds_samples_of_the_drawn_classes():
    members = [[0, 1], [10, 11, 12], [20]]
    made = MetaSampler(3)
    indices, weights = made.draw(members, 300, generator(2))
    classes, again = made(300, generator(2))
    assert [index // 10 for index in indices] == classes.tolist()
    assert set(indices) == {0, 1, 10, 11, 12, 20}
    assert torch.equal(weights, again)


def test_rates_are_state_that_resumes():
    made = sampler([0.3, -0.2, 0.9])
    other = MetaSampler(3)
    other.load_state_dict(made.state_dict())
    assert torch.equal(made.rates(), other.rates())


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda: MetaSampler(0), "num_classes is 0"),
        (lambda: MetaSampler(3, tau=0), "tau is 0"),
        (lambda: MetaSampler(3).draw([[1], [2]], 4), "2 lists for 3 classes"),
        (lambda: MetaSampler(3).draw([[1], [], [2]], 4), "class 1 has no samples"),
    ],
)
def test_bad_input_is_explained(call, expected):
    with pytest.raises(InputError, match=expected):
        call()
