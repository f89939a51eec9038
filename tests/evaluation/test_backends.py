"""The fast back end against the official API: the same 13 numbers and AP per category, to the last digit."""

import json
import logging
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as mask_util

from balanced_lvis.evaluation import Detections, DetectionWriter, backends, evaluate_detections
from balanced_lvis.evaluation.backends import highest_per_image
from balanced_lvis.evaluation.lvis_api import METRICS
from balanced_lvis.utils.errors import InputError
from benchmarks.lvis_evaluation import make_data
from tests.common import SHARED_DATA
from tests.evaluation.made import assert_equal_numbers, box_mask, lvis_of, made_content, stored
from tests.evaluation.test_lvis_api import made_annotations, predictions

REAL = SHARED_DATA / "lvis_val_100.json"
BOX = [4, 4, 10, 8]


@pytest.fixture(autouse=True)
def _fast_means_fast(monkeypatch):
    """A test that doesn't expect the official API in place of the fast one fails if it is called on."""

    def refuse(message, *args):
        raise AssertionError(message % args)

    monkeypatch.setattr(backends.logger, "warning", refuse)


# ------------------------------------------------------------------ real annotations, thousands of images


def store_records(folder, results) -> Detections:
    writer = DetectionWriter(folder)
    for r in results:
        writer.write(r["image_id"], [r["bbox"]], [r["score"]], [r["category_id"] - 1], [r["segmentation"]])
    writer.close()
    return Detections(folder)


@pytest.fixture
def real_content() -> dict:
    """The 100 real images where they are at hand, else annotations of the same form and size."""
    return json.loads(REAL.read_text()) if REAL.exists() else made_annotations()


@pytest.mark.parametrize("degrade", [0.0, 0.2, 0.5, 1.0])
def test_real_annotations(real_content, tmp_path, degrade):
    results = predictions(lvis_of(real_content), degrade, seed=round(10 * degrade))
    boxes, masks = assert_equal_numbers(real_content, store_records(tmp_path, results))
    assert boxes["AP"] > 5
    assert masks["AP"] > 5


def test_real_polygons_become_the_official_apis_rles(real_content):
    assert_same_rles(lvis_of(real_content))


COORDINATES = st.one_of(st.integers(-5, 40).map(float), st.floats(-5, 40), st.floats(-5, 40).map(lambda x: round(x, 2)))
PARTS = st.lists(COORDINATES, min_size=5, max_size=30)  # a point too few, and odd numbers, are among them


@settings(deadline=None, max_examples=300)
@given(st.lists(st.lists(PARTS, min_size=1, max_size=3), min_size=1, max_size=4))
def test_any_polygons_become_the_official_apis_rles(polygons):
    content = made_content([(1, 1, BOX)] * len(polygons))
    for annotation, parts in zip(content["annotations"], polygons):
        annotation["segmentation"] = parts
    assert_same_rles(lvis_of(content))


def assert_same_rles(lvis_gt):
    truth = backends.GroundTruth(lvis_gt).to_hotcoco(with_masks=True)
    annotations = backends.GroundTruth(lvis_gt).annotations
    for ours, annotation in zip(truth.load_anns(truth.get_ann_ids()), annotations):
        assert truth.ann_to_rle(ours) == lvis_gt.ann_to_rle(annotation)


def test_dense_detections_of_the_full_vocabulary(tmp_path, monkeypatch):
    monkeypatch.setattr(backends, "PART", 500)
    make_data({"folder": str(tmp_path), "images": 25})
    content = json.loads((tmp_path / "annotations.json").read_text())
    boxes, masks = assert_equal_numbers(content, Detections(tmp_path / "detections"))
    assert 10 < masks["AP"] < boxes["AP"] < 90


# ------------------------------------------------------------------ adversarial cases

IDS = st.integers(1, 4)
SIDES = st.tuples(*[st.integers(0, 12)] * 2, *[st.integers(1, 12)] * 2).map(list)
# Areas of the annotation file are its own: they may lie on the edges of the size ranges, or be 0.
OBJECTS = st.lists(
    st.one_of(
        st.tuples(IDS, IDS, SIDES), st.tuples(IDS, IDS, SIDES, st.sampled_from([0, 1, 1024, 1024.5, 9216, 1e10, 2e10]))
    ),
    max_size=12,
)
SCORES = st.one_of(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.floats(0, 1, width=32))
ANY_SIDES = st.tuples(*[st.integers(-2, 14)] * 4).map(list)  # also without area, inside out, beyond the image
DETECTIONS = st.lists(
    st.tuples(IDS, st.integers(1, 5), st.one_of(SIDES, ANY_SIDES), SCORES), max_size=40
)  # category 5 is in no annotation file
PAIRS = st.lists(st.tuples(IDS, st.integers(1, 5)), max_size=6)


@settings(deadline=None, max_examples=80)
@given(OBJECTS, DETECTIONS, PAIRS, PAIRS, st.sampled_from([300, 5, 1, -1]), st.sampled_from([1, 7, 1000]))
def test_any_annotations_and_detections(tmp_path_factory, objects, detections, negative, not_exhaustive, limit, part):
    content = made_content(objects, negative, not_exhaustive)
    store = stored(tmp_path_factory.mktemp("store"), detections)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backends, "PART", part)  # detections that are matched at a time
        assert_equal_numbers(content, store, limit)


@settings(deadline=None, max_examples=60)
@given(st.data(), OBJECTS.filter(bool), PAIRS)
def test_detections_beside_the_objects(tmp_path_factory, data, objects, not_exhaustive):
    """Matching is decided here: several candidates, equal scores, overlaps at the thresholds."""
    near = st.tuples(st.sampled_from(objects), st.tuples(*[st.integers(-1, 1)] * 4), SCORES)
    found = data.draw(st.lists(near, max_size=40))
    detections = [(o[0], o[1], [a + b for a, b in zip(o[2], shift)], score) for o, shift, score in found]
    content = made_content(objects, [], not_exhaustive)
    assert_equal_numbers(content, stored(tmp_path_factory.mktemp("store"), detections))


def test_equal_scores_keep_their_order(tmp_path):
    content = made_content([(1, 1, BOX), (2, 1, BOX)])
    off = [20, 12, 5, 5]
    first = stored(tmp_path / "1", [(1, 1, BOX, 0.5), (1, 1, off, 0.5), (2, 1, off, 0.5), (2, 1, BOX, 0.5)])
    last = stored(tmp_path / "2", [(1, 1, off, 0.5), (1, 1, BOX, 0.5), (2, 1, off, 0.5), (2, 1, BOX, 0.5)])
    assert assert_equal_numbers(content, first)[0]["AP"] > assert_equal_numbers(content, last)[0]["AP"]


def test_more_than_300_detections_in_an_image(tmp_path):
    """The 301st of equal scores is cut, whatever its category; another image keeps its own."""
    content = made_content([(1, 1, BOX), (1, 2, BOX), (2, 1, BOX)], [(1, 3)])
    filler = [(1, 4, BOX, 0.5)] * 298
    inside = [(1, 3, BOX, 0.9), *filler, (1, 1, BOX, 0.5), (1, 2, BOX, 0.5), (2, 1, BOX, 0.1)]
    boxes, _ = assert_equal_numbers(content, stored(tmp_path, inside))
    assert boxes["AP"] == pytest.approx(50)  # category 1 is found twice, category 2's detection was the 301st


def test_a_detection_beyond_the_limit_may_be_of_an_earlier_row(tmp_path):
    content = made_content([(1, 1, BOX)])
    results = [(1, 1, BOX, 0.1), *[(1, 2, BOX, 0.5)] * 300]
    boxes, _ = assert_equal_numbers(content, stored(tmp_path, results))
    assert boxes["AP"] == 0


def test_images_whose_detections_come_in_parts(tmp_path):
    content = made_content([(1, 1, BOX), (2, 1, BOX)])
    results = [(image, 1, BOX, score) for score in (0.2, 0.9, 0.2) for image in (2, 1)]
    assert_equal_numbers(content, stored(tmp_path, results), limit=2)


def test_images_without_detections_and_without_objects(tmp_path):
    content = made_content([(1, 1, BOX)], [(2, 1)])
    boxes, _ = assert_equal_numbers(content, stored(tmp_path, [(2, 1, BOX, 0.9), (3, 1, BOX, 0.9)]))
    assert boxes["AP"] == 0


def test_no_detections_at_all(tmp_path):
    boxes, masks = assert_equal_numbers(made_content([(1, 1, BOX)]), stored(tmp_path, []))
    assert boxes["AP"] == masks["AP"] == 0
    assert math.isnan(boxes["APl"])


def test_no_objects_at_all(tmp_path):
    boxes, _ = assert_equal_numbers(made_content([], [(1, 1)]), stored(tmp_path, [(1, 1, BOX, 0.5)]))
    assert all(map(math.isnan, boxes.values()))


def test_categories_that_the_annotations_lack(tmp_path):
    content = made_content([(1, 1, BOX)], [(1, 9)], [(1, 9)])
    results = [(1, 9, BOX, 0.9), (1, 3, BOX, 0.9), (1, 1, BOX, 0.5)]
    boxes, _ = assert_equal_numbers(content, stored(tmp_path, results))
    assert boxes["AP"] == pytest.approx(100)


def test_a_category_that_is_known_to_be_absent_everywhere_has_no_ap(tmp_path):
    content = made_content([(1, 1, BOX)], [(1, 2), (2, 2)])
    store = stored(tmp_path, [(1, 1, BOX, 0.5), (1, 2, BOX, 0.5), (2, 2, BOX, 0.5)])
    assert_equal_numbers(content, store)
    _, per_category = evaluate_detections(lvis_of(content), store, "bbox", "fast")
    assert per_category[1] == pytest.approx(100)
    assert math.isnan(per_category[2])


def test_what_is_not_annotated_exhaustively_counts_neither_way(tmp_path):
    off = [20, 12, 5, 5]
    results = [(1, 1, off, 0.9), (1, 1, BOX, 0.5)]
    listed = made_content([(1, 1, BOX)], [], [(1, 1)])
    boxes, _ = assert_equal_numbers(listed, stored(tmp_path, results))
    assert boxes["AP"] == pytest.approx(100)
    boxes, _ = assert_equal_numbers(made_content([(1, 1, BOX)]), stored(tmp_path, results))
    assert boxes["AP"] == pytest.approx(50)


def test_detections_without_area_are_dropped_as_the_official_api_drops_them(tmp_path):
    content = made_content([(1, 1, BOX)])
    results = [(1, 1, [4, 4, 0, 8], 0.9), (1, 1, [0, 0, 0, 0], 0.8), (1, 1, BOX, 0.5)]
    for numbers in assert_equal_numbers(content, stored(tmp_path, results)):
        assert numbers["AP"] == pytest.approx(100)


def test_objects_without_area_are_dropped_as_the_official_api_drops_them(tmp_path):
    content = made_content([(1, 1, BOX), (1, 1, [20, 12, 5, 5], 0), (1, 2, BOX, 0)])
    results = [(1, 1, BOX, 0.9), (1, 1, [20, 12, 5, 5], 0.95), (1, 2, BOX, 0.9)]
    assert_equal_numbers(content, stored(tmp_path, results))


def test_an_empty_mask_in_a_good_box(tmp_path):
    content = made_content([(1, 1, BOX)])
    boxes, masks = assert_equal_numbers(content, stored(tmp_path, [(1, 1, BOX, 0.9, box_mask([0, 0, 0, 0]))]))
    assert boxes["AP"] == pytest.approx(100)
    assert masks["AP"] == 0


def test_the_area_of_a_mask_is_the_masks_though_its_box_is_stored_too(tmp_path):
    """The official API takes w * h of a result's bbox for its area, which this project doesn't hand it."""
    content = made_content([(1, 1, BOX)])
    results = [(1, 1, [0, 0, 40, 40], 0.9, box_mask([20, 12, 5, 5])), (1, 1, [0, 0, 40, 40], 0.8, box_mask(BOX))]
    _, masks = assert_equal_numbers(content, stored(tmp_path, results))
    assert masks["APs"] == pytest.approx(50)  # of box areas, the first would not be small, and ignored


def test_masks_of_another_size_match_nothing(tmp_path):
    content = made_content([(1, 1, BOX)])
    other = mask_util.encode(np.ones((9, 9), np.uint8, order="F"))
    _, masks = assert_equal_numbers(content, stored(tmp_path, [(1, 1, BOX, 0.9, other), (1, 1, BOX, 0.5)]))
    assert masks["AP"] == pytest.approx(50)


def test_objects_that_are_marked_as_crowds_are_objects_as_for_the_official_api(tmp_path):
    content = made_content([(1, 1, [0, 0, 20, 20]), (1, 2, BOX)])
    for annotation in content["annotations"]:
        annotation["iscrowd"] = 1
    assert_equal_numbers(content, stored(tmp_path, [(1, 1, BOX, 0.9), (1, 1, BOX, 0.8), (1, 2, BOX, 0.9)]))


def test_objects_may_be_rles(tmp_path):
    content = made_content([(1, 1, BOX), (1, 2, BOX)])
    uncompressed = {"size": [24, 32], "counts": [100, 8, 16, 8, 636]}
    for annotation, segmentation in zip(content["annotations"], (box_mask(BOX), uncompressed)):
        annotation["segmentation"] = segmentation
    _, masks = assert_equal_numbers(content, stored(tmp_path, [(1, 1, BOX, 0.9), (1, 2, BOX, 0.9)]))
    assert masks["AP50"] == pytest.approx(50)


def test_ids_may_be_in_any_order_and_large(tmp_path):
    content = made_content([(1, 1, BOX), (2, 2, BOX), (3, 4, BOX)], [(1, 2)])
    images, categories = {1: 2**53 + 1, 2: 7, 3: 581929, 4: 0}, {1: 40, 2: 3, 3: 2_000_000_000, 4: 1}
    for image in content["images"]:
        image["id"] = images[image["id"]]
        image["neg_category_ids"] = [categories[c] for c in image["neg_category_ids"]]
    for annotation in content["annotations"]:
        annotation["image_id"] = images[annotation["image_id"]]
        annotation["category_id"] = categories[annotation["category_id"]]
    for category in content["categories"]:
        category["id"] = categories[category["id"]]
    content["categories"].reverse()
    results = [(1, 1, BOX, 0.9), (1, 2, BOX, 0.9), (2, 2, BOX, 0.3), (3, 4, [20, 12, 5, 5], 0.9), (3, 4, BOX, 0.3)]
    results = [(images[image], categories[category], *rest) for image, category, *rest in results]
    assert_equal_numbers(content, stored(tmp_path, results))


def test_box_only_detections(tmp_path):
    content = made_content([(1, 1, BOX)])
    boxes, *_ = assert_equal_numbers(content, stored(tmp_path, [(1, 1, BOX, 0.9)], with_masks=False), tasks=("bbox",))
    assert boxes["AP"] == pytest.approx(100)


def test_masks_that_the_official_api_has_turned_into_rles(tmp_path):
    lvis_gt = lvis_of(made_content([(1, 1, BOX), (1, 2, [3, 3, 5, 5])]))
    store = stored(tmp_path, [(1, 1, BOX, 0.9), (1, 2, [3, 3, 5, 4], 0.9)])
    before = evaluate_detections(lvis_gt, store, "segm", "fast")
    official = evaluate_detections(lvis_gt, store, "segm", "official")
    assert isinstance(lvis_gt.anns[1]["segmentation"], dict)
    after = evaluate_detections(lvis_gt, store, "segm", "fast")
    assert repr(before) == repr(official) == repr(after)


def test_the_fast_back_end_leaves_the_ground_truth_as_it_is(tmp_path):
    content = made_content([(1, 1, BOX)])
    lvis_gt = lvis_of(content)
    evaluate_detections(lvis_gt, stored(tmp_path, [(1, 1, BOX, 0.9)]), "segm", "fast")
    assert lvis_gt.dataset == content


# ------------------------------------------------------------------ what only the official API is trusted with


def _ignored(content):
    content["annotations"][0]["ignore"] = 1


def _id_0(content):
    content["annotations"][0]["id"] = 0


def _twice(content):
    content["annotations"][1]["id"] = content["annotations"][0]["id"]


@pytest.mark.parametrize("change, name", [(_ignored, "Ignored ann"), (_id_0, "ids that are 0"), (_twice, "twice")])
def test_odd_annotations_go_to_the_official_api_with_a_warning(tmp_path, monkeypatch, caplog, change, name):
    monkeypatch.undo()
    content = made_content([(1, 1, BOX), (1, 1, [20, 12, 5, 5]), (2, 1, BOX)])
    change(content)
    store = stored(tmp_path, [(1, 1, BOX, 0.9), (1, 1, [20, 12, 5, 4], 0.9), (2, 1, BOX, 0.4), (2, 1, BOX, 0.3)])
    with caplog.at_level(logging.WARNING, "balanced_lvis"):
        assert_equal_numbers(content, store)
    assert name in caplog.text
    assert "official API" in caplog.text


def test_scores_that_are_not_finite_go_to_the_official_api(tmp_path, monkeypatch, caplog):
    monkeypatch.undo()
    store = stored(tmp_path, [(1, 1, BOX, math.nan), (1, 1, BOX, 0.9)])
    with caplog.at_level(logging.WARNING, "balanced_lvis"):
        assert_equal_numbers(made_content([(1, 1, BOX)]), store)
    assert "not finite" in caplog.text


# ------------------------------------------------------------------ the limit per image, and bad input


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0.1, 0.2, 0.3])), max_size=30), st.integers(-1, 9))
def test_the_limit_is_that_of_pythons_own_sort(rows, limit):
    images = np.array([image for image, _ in rows], int)
    scores = np.array([score for _, score in rows], float)
    expected = np.zeros(len(rows), bool)
    for image in range(4):
        own = [i for i, row in enumerate(rows) if row[0] == image]
        own = sorted(own, key=lambda i: rows[i][1], reverse=True)
        expected[own if limit < 0 else own[:limit]] = True
    assert highest_per_image(images, scores, limit).tolist() == expected.tolist()


@pytest.mark.parametrize("backend", ["fast", "official"])
def test_unknown_images_tasks_and_back_ends_are_named(tmp_path, backend):
    lvis_gt, store = lvis_of(made_content([(1, 1, BOX)])), stored(tmp_path, [(99, 1, BOX, 0.5)])
    with pytest.raises(InputError, match=r"1 image\(s\).*image_id 99;"):
        evaluate_detections(lvis_gt, store, "bbox", backend)
    with pytest.raises(InputError, match="'keypoints'; valid: 'bbox', 'segm'"):
        evaluate_detections(lvis_gt, store, "keypoints", backend)
    with pytest.raises(InputError, match=r"TEST.LVIS_BACKEND is 'faster'; valid: 'fast', 'official'"):
        evaluate_detections(lvis_gt, store, "bbox", "faster")


def test_a_missing_fast_back_end_is_named_with_the_remedy(monkeypatch):
    monkeypatch.setattr(backends, "hotcoco", None)
    with pytest.raises(InputError, match=r"pip install hotcoco.*'official'"):
        backends.check_backend("fast")
    backends.check_backend("official")


def test_all_13_numbers_are_there(tmp_path):
    metrics, _ = evaluate_detections(lvis_of(made_content([(1, 1, BOX)])), stored(tmp_path, []), "bbox")
    assert tuple(metrics) == METRICS
    assert len(METRICS) == 13
