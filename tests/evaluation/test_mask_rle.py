"""Masks to run lengths, byte for byte what Detectron2 and pycocotools make of them."""

import json

import numpy as np
import pytest
import torch
from detectron2.layers.mask_ops import paste_masks_in_image
from detectron2.structures import Boxes, PolygonMasks
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as mask_util

from balanced_lvis.evaluation import masks_to_rle
from balanced_lvis.evaluation.pasting import _columns_of_crops, _interpolated_edges
from balanced_lvis.utils.errors import InputError
from benchmarks.mask_encoding import lvis_like_detections
from tests import reference
from tests.common import SHARED_DATA

BELOW, ABOVE = np.nextafter(np.float32(0.5), np.float32([0, 1]))


def pasted(masks, boxes, size, threshold=0.5) -> torch.Tensor:
    """Detectron2's masks of image size; empty where it raises, which it does for crops that end before they begin."""
    out = torch.zeros(len(masks), *size, dtype=torch.bool)
    for i, (x0, y0, x1, y1) in enumerate(boxes.tolist()):
        left, right = max(np.floor(x0) - 1, 0), min(np.ceil(x1) + 1, size[1])
        top, bottom = max(np.floor(y0) - 1, 0), min(np.ceil(y1) + 1, size[0])
        if left <= right and top <= bottom:
            out[i] = paste_masks_in_image(masks[i : i + 1], boxes[i : i + 1], size, threshold)[0]
        else:
            with pytest.raises(RuntimeError):
                paste_masks_in_image(masks[i : i + 1], boxes[i : i + 1], size, threshold)
    return out


def encoded(full) -> list[dict]:
    """As Detectron2's evaluator encodes them."""
    rles = [mask_util.encode(np.array(mask[:, :, None], order="F", dtype="uint8"))[0] for mask in full.numpy()]
    return [{"size": rle["size"], "counts": rle["counts"].decode("utf-8")} for rle in rles]


def check(masks, boxes, size, threshold=0.5) -> list[dict]:
    found = masks_to_rle(masks, boxes, size, threshold)
    assert found == encoded(pasted(masks, boxes, size, threshold))
    return found


# ------------------------------------------------------------------ any masks in any boxes

KINDS = {
    "noise": lambda rng, shape: rng.random(shape),
    "noise beyond 0 and 1": lambda rng, shape: rng.normal(0, 5, shape),
    "binary": lambda rng, shape: rng.random(shape) < rng.random(),
    "at the threshold": lambda rng, shape: rng.choice([0, BELOW, 0.5, ABOVE, 1], shape),
    "around the threshold": lambda rng, shape: rng.normal(0.5, 10 ** rng.uniform(-8, -3), shape),
    "constant": lambda rng, shape: np.full(shape, rng.choice([0, BELOW, 0.5, ABOVE, 1])),
    "halves": lambda rng, shape: np.broadcast_to(np.arange(shape[1])[:, None] * 2 < shape[1], shape),
    "columns": lambda rng, shape: np.broadcast_to(np.arange(shape[2]) % 2, shape),
    "not numbers": lambda rng, shape: rng.choice([0, 0.4, 1, np.nan, np.inf, -np.inf, 1e38], shape),
}


@st.composite
def detections(draw, max_side=48):
    """Masks, boxes and an image size: boxes on and off the pixels' grid, at, across and beyond the image's borders."""
    height, width = draw(st.integers(1, max_side)), draw(st.integers(1, max_side))
    num, size = draw(st.integers(0, 4)), draw(st.sampled_from([1, 2, 3, 7, 14, 28]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    masks = KINDS[draw(st.sampled_from(sorted(KINDS)))](rng, (num, size, size))
    step = draw(st.sampled_from([1.0, 0.5, 0.25, 0.1, 1e-3]))

    def coordinate(limit):
        return st.one_of(
            st.sampled_from([0.0, float(limit), limit - 1.0, limit / 2]),
            st.integers(round(-limit / step), round(2 * limit / step)).map(lambda i: i * step),
        )

    corners = st.tuples(coordinate(width), coordinate(height), coordinate(width), coordinate(height))
    boxes = torch.tensor(draw(st.lists(corners, min_size=num, max_size=num)), dtype=torch.float32).reshape(num, 4)
    if draw(st.booleans()):  # else a good part of the boxes is inverted
        boxes = torch.cat([torch.minimum(boxes[:, :2], boxes[:, 2:]), torch.maximum(boxes[:, :2], boxes[:, 2:])], 1)
    return torch.tensor(np.array(masks), dtype=torch.float32), boxes, (height, width)


@settings(max_examples=400, deadline=None)
@given(detections(), st.sampled_from([0.5, 0.5, 0.5, 0.3, 0.0, 1.0]))
def test_rles_are_byte_identical_to_pasting_and_encoding(case, threshold):
    check(*case, threshold)


@settings(max_examples=30, deadline=None)
@given(detections(max_side=700))
def test_rles_are_byte_identical_in_larger_images(case):
    check(*case)


@settings(max_examples=100, deadline=None)
@given(detections(max_side=20))
def test_rles_are_those_of_a_naive_loop(case):
    size = case[2]
    for rle, full in zip(masks_to_rle(*case), pasted(*case)):
        assert rle == {"size": list(size), "counts": reference.coco_string(reference.coco_run_lengths(full.tolist()))}


@pytest.mark.parametrize("mask_size", [28, 112])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_large_boxes_reach_over_the_whole_image(kind, mask_size):
    rng = np.random.default_rng(0)
    masks = torch.tensor(np.array(KINDS[kind](rng, (4, mask_size, mask_size))), dtype=torch.float32)
    boxes = torch.tensor([[0, 0, 853, 640], [-1e3, -2e3, 5e3, 4e3], [-0.3, 3.1, 800.7, 639.9], [5, -1e6, 700, 1e6]])
    check(masks, boxes, (640, 853))


# ------------------------------------------------------------------ edges, one by one


def test_no_masks_give_no_rles():
    assert masks_to_rle(torch.zeros(0, 28, 28), torch.zeros(0, 4), (10, 20)) == []


def test_an_empty_mask_is_one_run():
    (rle,) = check(torch.zeros(1, 28, 28), torch.tensor([[2.0, 3, 7, 8]]), (10, 20))
    assert rle["counts"] == reference.coco_string([200])


def test_a_mask_of_the_whole_image_starts_with_an_empty_run_and_has_no_last_one():
    (rle,) = check(torch.ones(1, 28, 28), torch.tensor([[-50.0, -50, 90, 90]]), (10, 20))
    assert rle["counts"] == reference.coco_string([0, 200])


def test_runs_of_columns_of_full_height_join():
    (rle,) = check(torch.ones(1, 28, 28), torch.tensor([[3.0, 0, 6, 10]]), (10, 20))
    assert rle["counts"] == reference.coco_string([30, 30, 140])


def test_neighbouring_masks_do_not_join_at_the_ends_of_their_images():
    boxes = torch.tensor([[18.0, 0, 20, 10], [0, 0, 2, 10], [-9, -9, 30, 30], [-9, -9, 30, 30]])
    found = check(torch.ones(4, 28, 28), boxes, (10, 20))
    runs = [[180, 20], [0, 20, 180], [0, 200], [0, 200]]
    assert [rle["counts"] for rle in found] == [reference.coco_string(run) for run in runs]


@pytest.mark.parametrize(
    "box", [(4, 5, 5, 6), (4.4, 5.4, 4.6, 5.6), (4.5, 5.5, 4.5, 5.5), (0, 0, 1, 1), (19, 9, 20, 10)]
)
def test_boxes_of_one_pixel(box):
    check(torch.rand(3, 28, 28).round(), torch.tensor([box] * 3), (10, 20))


@pytest.mark.parametrize(
    "box",
    [(-9, 2, -3, 8), (25, 2, 30, 8), (2, -9, 8, -4), (2, 15, 8, 19), (9, 9, 2, 2), (5, 2, 1, 8)],
)
def test_boxes_without_a_pixel_in_the_image_are_empty(box):
    (rle,) = check(torch.ones(1, 28, 28), torch.tensor([box], dtype=torch.float32), (10, 20))
    assert rle["counts"] == reference.coco_string([200])


@pytest.mark.parametrize("box", [(5, 2, 4.5, 8), (2, 6, 8, 5), (3, 4, 3, 9), (4, 4, 4, 4), (6, 6, 5.5, 5)])
def test_inverted_and_empty_boxes(box):
    check(torch.rand(4, 28, 28), torch.tensor([box] * 4), (10, 20))


@pytest.mark.parametrize("scale", [1, 2, 3, 4, 7])
def test_crossings_exactly_at_pixel_centres(scale):
    """Boxes of a multiple of the mask's size, at whole and half pixels: the threshold is met at centres and borders."""
    masks = torch.tensor(np.random.default_rng(scale).integers(0, 2, (8, 14, 14)), dtype=torch.float32)
    corner = torch.tensor([[1.0, 2], [1.5, 2], [1, 2.5], [1.5, 2.5]]).repeat(2, 1)
    check(masks, torch.cat([corner, corner + 14 * scale], 1), (110, 120))
    check(masks, torch.cat([corner, corner + 14 / scale], 1), (110, 120))


@pytest.mark.parametrize("mask_dtype", [torch.float32, torch.float64, torch.bool, torch.uint8])
@pytest.mark.parametrize("box_dtype", [torch.float32, torch.float64, torch.int64])
def test_other_types_are_sampled_in_their_own_precision(mask_dtype, box_dtype):
    masks = torch.rand(5, 14, 14).mul(1 if mask_dtype.is_floating_point else 2).to(mask_dtype)
    boxes = torch.tensor([[1.2, 2.1, 17.3, 19.9]] * 5).to(box_dtype)
    check(masks, boxes, (20, 24))


def test_boxes_may_be_detectron2s_own():
    masks, boxes = torch.rand(3, 28, 28), torch.tensor([[1.0, 2, 7, 8]] * 3)
    assert masks_to_rle(masks, Boxes(boxes), (10, 20)) == masks_to_rle(masks, boxes, (10, 20))


# ------------------------------------------------------------------ as in an evaluation


def test_three_hundred_detections_of_an_lvis_image():
    masks, boxes = lvis_like_detections(300, 640, 853)
    assert masks_to_rle(masks, boxes, (640, 853)) == encoded(paste_masks_in_image(masks, boxes, (640, 853)))


def test_few_columns_of_ordinary_masks_have_to_be_sampled():
    """So that the tests above do test interpolation, and so that it is fast."""
    masks, boxes = lvis_like_detections(300, 640, 853)
    columns = _columns_of_crops(boxes, 640, 853)
    _, doubt = _interpolated_edges(masks, boxes, columns, 0.5)
    assert 0 < len(doubt) < 0.03 * len(columns)


@pytest.mark.parametrize("blur", [False, True], ids=["sharp", "soft"])
def test_real_polygons(blur):
    """The shapes that annotators drew, as the mask head learns them, and softened as it predicts them."""
    path = SHARED_DATA / "lvis_val_100.json"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    content = json.loads(path.read_text())
    by_image = {image["id"]: [] for image in content["images"]}
    for annotation in content["annotations"]:
        by_image[annotation["image_id"]].append(annotation)
    for image in content["images"][:25]:
        annotations = [a for a in by_image[image["id"]] if min(a["bbox"][2:]) > 0]
        if not annotations:
            continue
        x, y, w, h = torch.tensor([a["bbox"] for a in annotations], dtype=torch.float32).T
        boxes = torch.stack([x, y, x + w, y + h], 1)
        masks = PolygonMasks([a["segmentation"] for a in annotations]).crop_and_resize(boxes, 28).float()
        if blur:
            masks = torch.nn.functional.avg_pool2d(masks[:, None], 3, stride=1, padding=1)[:, 0]
        check(masks, boxes, (image["height"], image["width"]))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_masks_on_a_gpu_give_the_rles_of_the_cpu():
    masks, boxes = lvis_like_detections(300, 640, 853)
    assert masks_to_rle(masks.cuda(), boxes.cuda(), (640, 853)) == masks_to_rle(masks, boxes, (640, 853))


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("masks", "boxes", "size", "threshold", "expected"),
    [
        ((2, 1, 28, 28), (2, 4), (10, 20), 0.5, r"masks have shape \(2, 1, 28, 28\)"),
        ((2, 28, 14), (2, 4), (10, 20), 0.5, r"masks have shape \(2, 28, 14\)"),
        ((2, 0, 0), (2, 4), (10, 20), 0.5, r"masks have shape \(2, 0, 0\)"),
        ((2, 28, 28), (3, 4), (10, 20), 0.5, r"boxes have shape \(3, 4\); expected \(2, 4\)"),
        ((2, 28, 28), (2, 4), (0, 20), 0.5, r"image_size is \(0, 20\)"),
        ((2, 28, 28), (2, 4), (10, 20), -1, "threshold is -1"),
        ((2, 28, 28), (2, 4), (10, 20), float("nan"), "threshold is nan"),
    ],
)
def test_bad_input_is_explained(masks, boxes, size, threshold, expected):
    with pytest.raises(InputError, match=expected):
        masks_to_rle(torch.zeros(masks), torch.zeros(boxes), size, threshold)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_boxes_that_are_not_finite_are_refused(value):
    with pytest.raises(InputError, match="boxes contain infinite values or NaN"):
        masks_to_rle(torch.zeros(1, 28, 28), torch.tensor([[0, 0, value, 1]]), (10, 20))
