"""The RPN head against Detectron2's own: the same predictions to the bit, and gradients up to the rounding of sums."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.modeling.proposal_generator.rpn import StandardRPNHead
from hypothesis import example, given, settings
from hypothesis import strategies as st

from balanced_lvis.modeling import SampledRPNHead

C, A = 6, 3


def heads(**options):
    made = [kind(in_channels=C, num_anchors=A, **options) for kind in (StandardRPNHead, SampledRPNHead)]
    for parameter in made[0].parameters():
        torch.nn.init.normal_(parameter)
    made[1].load_state_dict(made[0].state_dict())
    return made


def with_gradients(head, features, weights):
    """Predictions, and the gradients of their weighted sum by features and parameters."""
    logits, deltas = head(features)
    total = sum((output * w).sum() for output, w in zip((*logits, *deltas), weights))
    inputs = [f for f in features if f.requires_grad]
    return (*logits, *deltas), torch.autograd.grad(total, (*inputs, *head.parameters()))


def sparse_weights(places, sizes):
    """Of the sum: nonzero at some anchors, some of which are at the border, and at several of a place."""
    generator = torch.Generator().manual_seed(0)
    made = [torch.zeros(2, n * A, *size) for n in (1, 4) for size in sizes]
    for image, anchor, y, x in places:
        for of_level in made:
            anchors = of_level.view(2, A, -1, *of_level.shape[2:])
            row, column = y % of_level.shape[2], x % of_level.shape[3]
            anchors[image, anchor, :, row, column] = torch.randn(anchors.shape[2], generator=generator)
    return made


@settings(max_examples=40, deadline=None)
@example(places=[], frozen=False)
@example(places=[(0, 0, 0, 0), (0, 1, 0, 0), (1, 2, 4, 6), (1, 2, 4, 0)], frozen=True)
@given(
    places=st.lists(
        st.tuples(st.integers(0, 1), st.integers(0, A - 1), st.integers(0, 9), st.integers(0, 9)), max_size=30
    ),
    frozen=st.booleans(),
)
def test_predictions_and_gradients_are_detectron2s(places, frozen):
    torch.manual_seed(0)
    sizes = [(5, 7), (3, 2), (1, 1)]
    features = [torch.randn(2, C, *size, requires_grad=not frozen) for size in sizes]
    weights = sparse_weights(places, sizes)
    (stock, of_stock), (ours, of_ours) = (with_gradients(head, features, weights) for head in heads())
    assert all(map(torch.equal, stock, ours))
    for a, b in zip(of_stock, of_ours):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-4)


def test_its_parameters_have_detectron2s_names_and_start_alike():
    made = []
    for kind in (StandardRPNHead, SampledRPNHead):
        torch.manual_seed(0)
        made.append(kind(in_channels=C, num_anchors=A).state_dict())
    assert list(made[0]) == list(made[1])
    assert all(torch.equal(made[0][name], made[1][name]) for name in made[0])


@pytest.mark.parametrize("case", ["no gradients", "autocast", "several layers"])
def test_elsewhere_it_is_detectron2s_head(case):
    stock, ours = heads(conv_dims=(-1, -1)) if case == "several layers" else heads()
    features = [torch.randn(1, C, 4, 4)]
    with (
        torch.set_grad_enabled(case != "no gradients"),
        torch.autocast("cpu", torch.bfloat16, enabled=case == "autocast"),
    ):
        for a, b in zip((x for of in stock(features) for x in of), (x for of in ours(features) for x in of)):
            assert torch.equal(a, b)
            assert type(a.grad_fn) is type(b.grad_fn)


def test_a_model_has_it_unless_the_config_names_another(tiny_cfg):
    assert type(build_model(tiny_cfg).proposal_generator.rpn_head) is SampledRPNHead
    tiny_cfg.MODEL.RPN.HEAD_NAME = "StandardRPNHead"
    assert type(build_model(tiny_cfg).proposal_generator.rpn_head) is StandardRPNHead
