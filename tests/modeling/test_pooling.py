"""RoI pooling against Detectron2's own: the same values to the bit, and gradients up to the rounding of sums."""

import pytest
import torch
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torchvision.ops import roi_align

from balanced_lvis.modeling.pooling import LevelPooler, SeparableROIAlign, faster_pooler

SCALES = [1 / 4, 1 / 8, 1 / 16]
HEIGHT, WIDTH = 80, 112  # of the image

coordinate = st.floats(-60, 180, width=32)
# Of inverted boxes torchvision raises.
spans = st.tuples(coordinate, coordinate).map(sorted)
boxes = st.lists(st.tuples(spans, spans).map(lambda s: (s[0][0], s[1][0], s[0][1], s[1][1])), max_size=5)


def features(images=2, channels=3):
    return [torch.randn(images, channels, int(HEIGHT * s), int(WIDTH * s), requires_grad=True) for s in SCALES]


def gradients(output, inputs):
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(0))
    return torch.autograd.grad(output, inputs, weights, allow_unused=True)


@settings(max_examples=100, deadline=None)
@example(corners=[(-300.0, -300.0, -200.0, -200.0)], size=7, ratio=0, aligned=True)  # outside
@example(corners=[(5.0, 5.0, 5.0, 5.0), (9.0, 9.0, 9.0, 30.0)], size=7, ratio=0, aligned=True)  # without area
@example(corners=[(5.0, 5.0, 5.0, 5.0), (9.0, 9.0, 9.0, 30.0)], size=2, ratio=2, aligned=False)
@example(corners=[(-4.0, -4.0, 116.0, 84.0)], size=1, ratio=0, aligned=True)  # a place beyond the border all around
@example(corners=[(0.0, 0.0, 4.0, 300.0)], size=7, ratio=3, aligned=True)
@given(corners=boxes, size=st.sampled_from([1, 2, 7]), ratio=st.sampled_from([0, 1, 2]), aligned=st.booleans())
def test_roi_align_has_torchvisions_values_and_gradients(corners, size, ratio, aligned):
    x = features(images=2)[0]
    rois = torch.tensor([[float(i % 2), *box] for i, box in enumerate(corners)]).reshape(-1, 5)
    pool = SeparableROIAlign((size, size), SCALES[0], ratio, aligned)
    ours, stock = pool(x, rois), roi_align(x, rois, (size, size), SCALES[0], ratio, aligned)
    assert torch.equal(ours, stock)
    torch.testing.assert_close(gradients(ours, x), gradients(stock, x), rtol=1e-4, atol=2e-5)


def test_the_gradient_is_that_of_finite_differences():
    torch.manual_seed(3)
    x = torch.randn(1, 1, 6, 8, requires_grad=True)
    rois = torch.tensor([[0, 3.0, 2.0, 21.0, 19.0]])
    pool = SeparableROIAlign((3, 3), 0.25, 0, True)
    (found,) = torch.autograd.grad((pool(x, rois) ** 2).sum(), x)
    wide = x.detach().double()
    for index in range(wide.numel()):
        moved = [wide.clone() for _ in range(2)]
        for m, step in zip(moved, (1e-4, -1e-4)):
            m.view(-1)[index] += step
        up, down = ((roi_align(m, rois.double(), (3, 3), 0.25, 0, True) ** 2).sum() for m in moved)
        assert float(found.view(-1)[index]) == pytest.approx(float(up - down) / 2e-4, abs=1e-4)


POOLERS = [("ROIAlignV2", 0), ("ROIAlign", 2)]


@pytest.mark.parametrize(("kind", "ratio"), POOLERS)
@settings(max_examples=25, deadline=None)
@example(of_images=[[], []])
@given(of_images=st.lists(boxes, min_size=2, max_size=2))
def test_pooling_from_levels_is_detectron2s(kind, ratio, of_images):
    box_lists = [Boxes(torch.tensor(b).reshape(-1, 4)) for b in of_images]
    stock = ROIPooler(4, SCALES, ratio, kind, canonical_box_size=32, canonical_level=3)
    ours = faster_pooler(stock)
    assert isinstance(ours, LevelPooler)
    x = features()
    a, b = stock(x, box_lists), ours(x, box_lists)
    assert torch.equal(a, b)
    if len(a):
        for of_stock, of_ours in zip(gradients(a, x), gradients(b, x)):
            torch.testing.assert_close(of_ours, of_stock, rtol=1e-4, atol=2e-5)


def test_other_poolers_stay_as_they_are():
    assert faster_pooler(None) is None
    pooler = ROIPooler(4, SCALES, 0, "ROIPool")
    assert faster_pooler(pooler) is pooler


def test_without_gradients_and_in_double_precision_it_is_torchvision_itself():
    rois = torch.tensor([[0, 1.0, 2.0, 30.0, 40.0]])
    pool = SeparableROIAlign((2, 2), 0.25, 0, True)
    for x in (torch.randn(1, 2, 20, 20), torch.randn(1, 2, 20, 20).double().requires_grad_()):
        found = pool(x, rois)
        assert torch.equal(found, roi_align(x, rois.to(x.dtype), (2, 2), 0.25, 0, True))
        assert "_ROIAlignBackward" not in str(found.grad_fn)
