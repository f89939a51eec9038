"""The choice of detections against Detectron2's own, to the bit, and against plain loops."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads import CascadeROIHeads
from detectron2.modeling.roi_heads import fast_rcnn as stock
from detectron2.structures import Boxes, Instances
from hypothesis import example, given, settings
from hypothesis import strategies as st

from balanced_lvis.activations import build_activation
from balanced_lvis.modeling import ActivationOutputLayers, box_selection
from balanced_lvis.modeling.box_selection import EncodedBoxes, fast_rcnn_inference
from balanced_lvis.utils.errors import InputError
from benchmarks.boxes import Work, contenders, head_output, identical
from tests import reference

IMAGE = (60, 90)
TRANSFORM = Box2BoxTransform((10.0, 10.0, 5.0, 5.0))
GPU = pytest.param(
    "cuda",
    marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")],
)
devices = pytest.mark.parametrize("device", ["cpu", GPU])

# Up to 90 x 40 pairs: below and above the 1,000 to which torchvision's NMS takes its other way.
SHAPES = st.tuples(st.integers(0, 90), st.integers(1, 40))
OPTIONS = st.fixed_dictionaries(
    {
        "score_thresh": st.sampled_from([-1.0, 0.0, 1e-4, 0.3, 0.5, 0.97, 2.0]),
        "nms_thresh": st.sampled_from([0.0, 0.3, 0.5, 0.75, 1.0]),
        "topk_per_image": st.sampled_from([-1, 0, 1, 5, 30, 100, 10**6]),
    }
)
# How many different scores and boxes there are; None for as many as can be.
VARIETIES = st.sampled_from([1, 3, 20, None])
NOT_FINITE = st.lists(st.sampled_from([float("nan"), float("inf"), float("-inf"), 3e38, -3e38]), max_size=6)


def random_scores(shape, variety):
    scores = torch.rand(shape[0], shape[1] + 1)
    return scores if variety is None else (scores * variety).round() / variety


def random_boxes(number, variety, degenerate):
    """(number, 4) partly outside of the image, whole pixels where there are few of them."""
    corner = torch.rand(variety or number, 2) * 80 - 10
    sides = torch.rand(variety or number, 2) * 50
    if degenerate:
        sides[::2] = (sides[::2] - 40).clamp(min=0) * 1e-5
        sides[::5] *= -1
    boxes = torch.cat([corner, corner + sides], 1)
    if variety is None:
        return boxes
    return boxes.round()[torch.randint(variety, (number,))]


def spoil(tensor, values):
    """Put values anywhere."""
    if tensor.numel():
        where = torch.randint(tensor.numel(), (len(values),))
        tensor.view(-1)[where] = torch.tensor(values, dtype=tensor.dtype)
    return tensor


def both(boxes, decoded, scores, options, image=IMAGE):
    ours = fast_rcnn_inference([boxes], [scores], [image], **options)
    return ours, stock.fast_rcnn_inference([decoded], [scores], [image], **options)


def assert_identical(found, expected):
    assert identical(found, expected)
    for ours, theirs in zip(found[0], expected[0]):
        assert ours.image_size == theirs.image_size
        assert {k: type(v) for k, v in ours.get_fields().items()} == {
            k: type(v) for k, v in theirs.get_fields().items()
        }
        assert [t.dtype for t in (ours.pred_boxes.tensor, ours.scores, ours.pred_classes)] == [
            t.dtype for t in (theirs.pred_boxes.tensor, theirs.scores, theirs.pred_classes)
        ]


@devices
@settings(deadline=None, max_examples=150)
@given(
    shape=SHAPES,
    options=OPTIONS,
    varieties=st.tuples(VARIETIES, VARIETIES),
    degenerate=st.booleans(),
    agnostic=st.booleans(),
    bad=st.tuples(NOT_FINITE, NOT_FINITE),
    seed=st.integers(0, 2**32),
)
@example((90, 40), {"score_thresh": 0.0, "nms_thresh": 0.5, "topk_per_image": 30}, (None, 3), False, False, ([], []), 0)
@example((90, 40), {"score_thresh": 0.0, "nms_thresh": 0.5, "topk_per_image": 30}, (20, None), False, True, ([], []), 0)
def test_detections_are_detectron2s_to_the_bit(device, shape, options, varieties, degenerate, agnostic, bad, seed):
    torch.manual_seed(seed)
    scores = spoil(random_scores(shape, varieties[0]), bad[0]).to(device)
    sets = 1 if agnostic else shape[1]
    boxes = random_boxes(shape[0] * sets, varieties[1], degenerate).reshape(shape[0], 4 * sets)
    boxes = spoil(boxes, bad[1]).to(device)
    assert_identical(*both(boxes, boxes, scores, options))


@devices
@pytest.mark.parametrize("nms_thresh", [0.3, 0.5, 0.7])
@pytest.mark.parametrize("rois", [50, 120, 400])
@pytest.mark.parametrize("together", [False, True])
def test_ious_that_are_the_threshold_are_rounded_as_detectron2_rounds_them(
    monkeypatch, device, together, rois, nms_thresh
):
    """Moved by (1 - t) / (1 + t) of its width, a box has IoU t with itself, up to the last digit of the coordinates."""
    monkeypatch.setitem(box_selection.PAIRS_PER_CALL, device, 20_000_000 if together else 0)
    for _ in range(5):
        corner, sides = torch.rand(rois, 1, 2) * 500, 20 + torch.rand(rois, 1, 2) * 80
        steps = torch.randint(3, (rois, 20, 1)) * torch.tensor([(1 - nms_thresh) / (1 + nms_thresh), 0])
        which = torch.randint(10, (rois,))
        corner, sides = corner[which] + steps * sides[which], sides[which]
        boxes = torch.cat([corner, corner + sides], 2).flatten(1).to(device)
        scores = torch.rand(rois, 21, device=device)
        options = {"score_thresh": 0.01, "nms_thresh": nms_thresh, "topk_per_image": 300}
        assert_identical(*both(boxes, boxes, scores, options, (700, 700)))


@devices
@settings(deadline=None, max_examples=100)
@given(
    shape=SHAPES,
    options=OPTIONS,
    variety=VARIETIES,
    agnostic=st.booleans(),
    half=st.booleans(),
    bad=st.tuples(NOT_FINITE, NOT_FINITE),
    seed=st.integers(0, 2**32),
)
def test_boxes_decoded_as_needed_are_those_of_decoding_all(device, shape, options, variety, agnostic, half, bad, seed):
    torch.manual_seed(seed)
    scores = random_scores(shape, variety).to(device)
    proposals = spoil(random_boxes(shape[0], None, False), bad[0]).to(device)
    deltas = 3 * torch.randn(shape[0], 4 * (1 if agnostic else shape[1]))
    deltas = spoil(deltas, bad[1]).to(device, torch.float16 if half else torch.float32)
    decoded = TRANSFORM.apply_deltas(deltas, proposals)
    assert_identical(*both(EncodedBoxes(TRANSFORM, deltas, proposals), decoded, scores, options))


@settings(deadline=None, max_examples=40)
@given(
    shape=st.tuples(st.integers(0, 60), st.integers(1, 30)),
    nms_thresh=st.sampled_from([0.0, 0.25, 0.5, 0.75]),  # of which IoUs in float32 are on the same side as exact ones
    topk=st.sampled_from([-1, 0, 1, 30, 10**6]),
    bad=st.lists(st.sampled_from([float("nan"), float("inf"), float("-inf")]), max_size=6),
    seed=st.integers(0, 2**32),
)
def test_detections_are_those_of_plain_loops(shape, nms_thresh, topk, bad, seed):
    torch.manual_seed(seed)
    scores = torch.randperm(shape[0] * (shape[1] + 1)) / 2048  # without ties, whose order is not defined
    scores = spoil(scores.reshape(shape[0], shape[1] + 1), bad)
    boxes = random_boxes(shape[0] * shape[1], 25, False).reshape(shape[0], 4 * shape[1])
    (found,), (rois,) = fast_rcnn_inference([boxes], [scores], [IMAGE], 0.0625, nms_thresh, topk)
    plain = boxes.view(*shape, 4).tolist(), scores.tolist()
    expected = reference.detections(*plain, IMAGE, 0.0625, nms_thresh, topk)
    assert list(zip(found.scores.tolist(), rois.tolist(), found.pred_classes.tolist())) == [e[:3] for e in expected]
    assert found.pred_boxes.tensor.tolist() == [list(e[3]) for e in expected]


@devices
@pytest.mark.parametrize("work", [Work(900), Work(30_000), Work(100_000), Work(100_000, half=True)], ids=str)
def test_detections_of_a_trained_heads_output_are_detectron2s(device, work):
    theirs, ours = contenders(work, device)
    found = ours()
    assert len(found[0][0]) > 100
    assert_identical(found, theirs())


@pytest.mark.parametrize("pairs_per_call", [0, 20_000_000])
@pytest.mark.parametrize("work", [Work(30_000), Work(100_000, half=True)], ids=str)
def test_it_does_not_matter_how_many_classes_are_suppressed_together(monkeypatch, work, pairs_per_call):
    monkeypatch.setitem(box_selection.PAIRS_PER_CALL, "cpu", pairs_per_call)
    monkeypatch.setattr(box_selection, "BOXES_PER_CALL", 1500)
    theirs, ours = contenders(work, "cpu")
    assert_identical(ours(), theirs())


def test_an_images_candidates_are_as_many_as_said_and_its_proposals_distinct():
    proposals, logits, _ = head_output(Work(100_000))
    assert (logits[:, :-1].sigmoid() > 1e-4).sum() == 100_000
    assert len(proposals.unique(dim=0)) == len(proposals) == 1000


def test_only_the_top_of_many_candidates_is_decoded_and_suppressed(monkeypatch):
    _, ours = contenders(Work(800_000), "cpu")
    decoded = []
    of = EncodedBoxes.of
    monkeypatch.setattr(EncodedBoxes, "of", lambda self, *pairs: decoded.append(len(pairs[0])) or of(self, *pairs))
    ours()
    assert sum(decoded) < 20_000


def test_equal_scores_need_no_more_where_sorting_keeps_their_order(monkeypatch):
    sort = torch.Tensor.sort
    monkeypatch.setattr(torch.Tensor, "sort", lambda self, stable=True, **options: sort(self, stable=True, **options))
    monkeypatch.setattr(box_selection, "_sort_keeps_order", box_selection._sort_keeps_order.__wrapped__)
    monkeypatch.setattr(box_selection._Candidates, "all", lambda self: pytest.fail("all candidates were looked at"))
    theirs, ours = contenders(Work(100_000, half=True), "cpu")
    found = ours()[0][0]
    assert len(found.scores.unique()) < len(found) == 300
    assert_identical(ours(), theirs())


def test_a_cut_that_leaves_too_few_survivors_is_widened(monkeypatch):
    monkeypatch.setattr(box_selection, "FIRST_CUT", 1)
    scores, boxes = torch.rand(400, 21), torch.tensor([[0.0, 0, 9, 9], [1, 0, 9, 9], [20, 20, 40, 40]])
    boxes = boxes[torch.randint(3, (400,))].repeat(1, 20)
    options = {"score_thresh": 0.0, "nms_thresh": 0.5, "topk_per_image": 39}
    found, expected = both(boxes, boxes, scores, options)
    assert len(found[0][0]) == 39  # of 40
    assert_identical(found, expected)


@settings(deadline=None, max_examples=100)
@given(
    size=st.integers(1, 400),
    classes=st.integers(1, 40),
    nms_thresh=st.sampled_from([-0.5, 0.0, 0.25, 0.3, 0.5, 1.0]),
    varieties=st.tuples(VARIETIES, VARIETIES),
    degenerate=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_classes_suppressed_together_are_as_alone_or_said_to_be_doubtful(
    size, classes, nms_thresh, varieties, degenerate, seed
):
    torch.manual_seed(seed)
    classes = torch.randint(classes, (size,)).sort().values
    scores = random_scores((size, 1), varieties[0])[:, 0]
    boxes = Boxes(random_boxes(size, varieties[1], degenerate))
    boxes.clip(IMAGE)
    kept, doubtful = box_selection._bracketed(boxes.tensor, scores, classes, nms_thresh)
    for j in classes.unique():
        one = classes == j
        alone = torch.zeros(one.sum(), dtype=torch.bool)
        alone[box_selection.nms(boxes.tensor[one], scores[one], nms_thresh)] = True
        assert doubtful[one].any() or torch.equal(kept[one], alone)


def test_boxes_too_thin_to_be_moved_apart_are_doubtful():
    """Far from the origin the second class's two vanish, and would not overlap."""
    boxes = torch.tensor([[0.0, 0, 50, 50], [0, 0, 1e-16, 1e-16], [0, 0, 1e-16, 1e-16], [5, 5, 4, 4]])
    _, doubtful = box_selection._bracketed(boxes, torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([0, 1, 1, 2]), 0.5)
    assert doubtful.tolist() == [False, True, True, True]


def test_ordinary_boxes_are_hardly_ever_doubtful():
    boxes = torch.rand(2000, 2) * 400
    boxes = torch.cat([boxes, boxes + 20 + 200 * torch.rand(2000, 2)], 1)
    classes = torch.arange(100).repeat_interleave(20)
    _, doubtful = box_selection._bracketed(boxes, torch.rand(2000), classes, 0.5)
    assert len(classes[doubtful].unique()) < 3


def predictor(**options):
    return ActivationOutputLayers(
        input_shape=ShapeSpec(channels=16),
        activation=build_activation("softmax", 9),
        box2box_transform=TRANSFORM,
        num_classes=9,
        test_topk_per_image=50,
        **options,
    )


@devices
@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize("sizes", [(200, 0, 300), (0,), ()])
def test_the_predictor_finds_what_detectron2s_does_on_every_image(device, agnostic, sizes):
    layer = predictor(cls_agnostic_bbox_reg=agnostic).to(device)
    images = [Instances(IMAGE, proposal_boxes=Boxes(random_boxes(n, None, False).to(device))) for n in sizes]
    predictions = layer(3 * torch.randn(sum(sizes), 16, device=device))
    found, expected = (
        layer.inference(predictions, images),
        stock.FastRCNNOutputLayers.inference(layer, predictions, images),
    )
    assert len(found[0]) == len(expected[0]) == len(sizes)
    assert_identical(found, expected)


def test_cascade_heads_find_what_detectron2s_do(tiny_cfg):
    tiny_cfg.MODEL.ROI_HEADS.NAME = "LongTailCascadeROIHeads"
    tiny_cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    model = build_model(tiny_cfg).eval()
    heads = model.roi_heads
    with torch.no_grad():
        images = model.preprocess_image([{"image": torch.randint(256, (3, 96, 96), dtype=torch.uint8)}] * 2)
        features = model.backbone(images.tensor)
        proposals, _ = model.proposal_generator(images, features)
        for layer in heads.box_predictor:
            torch.nn.init.normal_(layer.cls_score.weight, std=0.5)
        found, expected = (
            heads._forward_box(features, proposals),
            CascadeROIHeads._forward_box(heads, features, proposals),
        )
    assert len(found[0]) > 10
    assert_identical((found, []), (expected, []))


def test_boxes_of_other_classes_than_the_scores_are_an_error():
    with pytest.raises(InputError, match="boxes has 3 boxes per RoI and scores has 4 classes"):
        fast_rcnn_inference([torch.zeros(2, 12)], [torch.zeros(2, 5)], [IMAGE], 0.5, 0.5, 10)
