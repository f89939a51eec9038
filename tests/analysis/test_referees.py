"""
Published implementations agree with ours.

hotcoco does on federated annotations, except for its confusion matrix. tidecv and vernier know nothing of these: they
agree where every category is annotated exhaustively in every image. vernier is not needed otherwise: ``pip install
vernier``.
"""

import importlib.util
import json
import sys
from unittest.mock import MagicMock

import numpy as np
import pytest
from pycocotools import mask as mask_util

from balanced_lvis.analysis import average_precision
from balanced_lvis.analysis.average_precision import lvis_metrics, precision_and_recall
from balanced_lvis.analysis.boundary import boundary_table
from balanced_lvis.analysis.calibration import (
    ECE_BINS,
    Bins,
    expected_calibration_error,
    optimal_lrp,
    rankings,
    reliability_bins,
)
from balanced_lvis.analysis.confusion import confused_pairs
from balanced_lvis.analysis.error_types import ERROR_TYPES, ap_lost, find_errors
from balanced_lvis.analysis.matching import match_detections
from balanced_lvis.evaluation.backends import GroundTruth
from tests.analysis.made import random_case, table_of
from tests.analysis.test_average_precision import blob
from tests.evaluation.made import lvis_of, made_content, stored

HEIGHT, WIDTH = 90, 120  # boundaries are 3 pixels wide
TIDE_NAMES = dict(zip(ERROR_TYPES, ("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss")))
WHY = "a published implementation, not needed otherwise"


# ------------------------------------------------------------------ hotcoco


def hotcoco_of(folder, content, results):
    """Its evaluation by the rules of LVIS."""
    hotcoco = pytest.importorskip("hotcoco", reason="the fast evaluation, of Python 3.10 or newer")
    (folder / "annotations.json").write_text(json.dumps(content))
    truth = hotcoco.LVIS(str(folder / "annotations.json"))
    keys = ("image_id", "category_id", "bbox", "score")
    records = [dict(zip(keys, result)) for result in results]
    evaluation = hotcoco.LVISeval(truth, hotcoco.LVISResults(truth, records), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation


@pytest.mark.parametrize("seed", range(4))
def test_hotcoco_has_the_same_error_types_and_ece_of_federated_annotations(tmp_path, seed):
    content, results = random_case(seed)
    table = table_of(tmp_path, content, results)
    errors = find_errors(table)
    evaluation = hotcoco_of(tmp_path, content, results)
    theirs = evaluation.tide_errors()
    lost = np.nanmean(ap_lost(table, errors)[0], axis=1)
    for index, name in enumerate(ERROR_TYPES):
        count = errors.missed.sum() if name == "missed" else np.count_nonzero(errors.types == index)
        assert theirs["counts"][TIDE_NAMES[name]] == count, name
        assert 100 * theirs["delta_ap"][TIDE_NAMES[name]] == pytest.approx(lost[index], abs=1e-9), name
    bins = reliability_bins(table)
    pooled = Bins(*(getattr(bins, name).sum(axis=0) for name in ("counts", "true", "scores", "ious")))
    calibration = evaluation.calibration(n_bins=ECE_BINS)
    assert calibration["num_detections"] == pooled.counts.sum() < len(results)
    assert 100 * calibration["ece"] == pytest.approx(expected_calibration_error(pooled), abs=1e-9)


def test_the_confusion_matrix_of_hotcoco_ignores_federated_annotation(tmp_path):
    """
    The example of docs/analysis.md. Category 1 is annotated in images 1 and 3, category 2 in image 2, not exhaustively.
    Category 2 is known to be absent from image 3, and unknown in image 1; category 1 is unknown in image 2.
    """
    box, away = [4, 4, 10, 8], [18, 12, 8, 8]
    objects = [(1, 1, box), (2, 2, box), (3, 1, box)]
    content = made_content(objects, negative=[(3, 2)], not_exhaustive=[(2, 2)], images=3, categories=2)
    found = [(1, 1, box, 0.9), (2, 2, box, 0.9), (3, 1, box, 0.9)]
    wrong = [
        (1, 2, box, 0.8),  # may be right: category 2 is unknown in image 1
        (2, 2, away, 0.7),  # may be right: not every object of category 2 is annotated in image 2
        (2, 1, away, 0.6),  # may be right: category 1 is unknown in image 2
        (3, 2, box, 0.8),  # wrong
    ]
    table = table_of(tmp_path, content, found + wrong)
    pairs = confused_pairs(table, find_errors(table), np.zeros(2))
    ids = table.truth.category_ids
    assert {name: column.tolist() for name, column in pairs.items() if name in ("count", "opportunities", "rate")} == {
        "count": [1], "opportunities": [1], "rate": [100.0]
    }  # fmt: skip
    assert (ids[pairs["detected"]], ids[pairs["annotated"]]) == (2, 1)
    matrix = hotcoco_of(tmp_path, content, found + wrong).confusion_matrix()["matrix"]
    background = 2
    assert matrix[background].tolist() == [1, 3, 0], "four errors, of which one is known to be one"
    assert not matrix[0, 1], "and the one confusion of categories is not among them"


# ------------------------------------------------------------------ tidecv


@pytest.fixture
def tidecv(monkeypatch):
    """The package; what it draws its figures with, and downloads to, may be missing."""
    for name in ("appdirs", "pandas", "seaborn"):
        if importlib.util.find_spec(name) is None:
            monkeypatch.setitem(sys.modules, name, MagicMock())
    return pytest.importorskip("tidecv", reason=WHY)


@pytest.fixture
def recalls_of_tide(monkeypatch):
    """tidecv compares recalls with i / 100, the LVIS API with values of linspace, some of which are rounded up."""
    monkeypatch.setattr(average_precision, "RECALLS", np.arange(101) / 100)
    average_precision.needed.cache_clear()
    yield
    average_precision.needed.cache_clear()


def lost_by_tide(tidecv, content, results, masks=None):
    """{short name of an error type: AP50 lost}; ``masks`` of annotations and results, in their order."""
    truth, predictions = tidecv.Data("truth"), tidecv.Data("predictions")
    for category in content["categories"]:
        truth.add_class(category["id"], category["name"])
    for image in content["images"]:
        truth.add_image(image["id"], str(image["id"]))
    of_objects, of_results = masks or ([None] * len(content["annotations"]), [None] * len(results))
    for annotation, mask in zip(content["annotations"], of_objects):
        truth.add_ground_truth(annotation["image_id"], annotation["category_id"], annotation["bbox"], mask)
    for (image, category, box, score), mask in zip(results, of_results):
        predictions.add_detection(image, category, score, box, mask)
    tide = tidecv.TIDE()
    run = tide.evaluate(truth, predictions, mode=tidecv.TIDE.MASK if masks else tidecv.TIDE.BOX)
    return {error.short_name: value for error, value in run.fix_main_errors().items()}


@pytest.mark.parametrize("seed", range(3))
def test_tidecv_has_the_same_ap_lost_of_boxes(tmp_path, tidecv, recalls_of_tide, seed):
    content, results = random_case(seed, federated=False, objects=50)
    expected = lost_by_tide(tidecv, content, results)
    table = match_detections(GroundTruth(lvis_of(content)), stored(tmp_path, results), "bbox")
    lost = np.nanmean(ap_lost(table, find_errors(table))[0], axis=1)
    for name, value in zip(ERROR_TYPES, lost):
        assert value == pytest.approx(expected[TIDE_NAMES[name]], abs=1e-9), name


@pytest.mark.parametrize("seed", range(2))
def test_tidecv_has_the_same_ap_lost_of_masks(tmp_path, tidecv, recalls_of_tide, seed):
    content, results = blob_case(seed)
    masks = [[one["segmentation"] for one in content["annotations"]], [result[4] for result in results]]
    expected = lost_by_tide(tidecv, content, [result[:4] for result in results], masks)
    table = match_detections(GroundTruth(lvis_of(content)), stored(tmp_path, results), "segm")
    lost = np.nanmean(ap_lost(table, find_errors(table))[0], axis=1)
    assert lost[0] > 1 and lost[1] > 1
    for name, value in zip(ERROR_TYPES, lost):
        assert value == pytest.approx(expected[TIDE_NAMES[name]], abs=1e-9), name


@pytest.mark.parametrize("has_detections", [True, False])
def test_a_category_without_a_found_object_is_the_difference_to_tidecv(
    tmp_path, tidecv, recalls_of_tide, has_detections
):
    """
    Ours adds its whole AP of 100 to what is lost by missed objects. tidecv leaves its AP at 0 if it has detections, and
    otherwise leaves it out of the mean after the correction, but not before.
    """
    content, results = random_case(0, federated=False, objects=50)
    results = [result for result in results if has_detections or result[1] != 5]
    for annotation in content["annotations"]:
        if annotation["category_id"] == 5:
            annotation["bbox"] = [0.0, 0.0, 0.5, 0.5]  # where nothing is detected
    expected = lost_by_tide(tidecv, content, results)
    table = match_detections(GroundTruth(lvis_of(content)), stored(tmp_path, results), "bbox")
    missed = ap_lost(table, find_errors(table))[0][ERROR_TYPES.index("missed")]
    before = 100 * precision_and_recall(table)[0][0, :, :, 0].mean(axis=0)
    assert missed[4] == 100 and before[4] == 0
    theirs = np.mean(missed) - 100 / 5 if has_detections else np.mean((before + missed)[:4]) - np.mean(before)
    assert theirs == pytest.approx(expected["Miss"], abs=1e-9)


# ------------------------------------------------------------------ vernier


@pytest.fixture
def vernier():
    return pytest.importorskip("vernier", reason=WHY, exc_type=ImportError)


def blob_case(seed, images=6, categories=3, objects=30):
    """Exhaustive annotations with RLE masks; results (image, category, box, score, RLE), most near an object."""
    rng = np.random.default_rng(seed)
    pairs = [(i, c) for i in range(1, images + 1) for c in range(1, categories + 1)]
    content = made_content([], pairs, images=images, categories=categories)
    for image in content["images"]:
        image.update(height=HEIGHT, width=WIDTH)
    masks = [blob(rng, HEIGHT, WIDTH) for _ in range(objects)]
    for number, mask in enumerate(masks, 1):
        image, category = rng.integers(1, images + 1), rng.integers(1, categories + 1)
        content["annotations"].append({"id": number, "image_id": int(image), "category_id": int(category), "iscrowd": 0,
                                       **region_of(mask)})  # fmt: skip
    results = []
    for score in rng.permutation(4 * objects) / (4 * objects + 1) + 1e-3:
        index = int(rng.integers(objects))
        annotation, mask = content["annotations"][index], masks[index]
        mask = np.roll(mask, rng.integers(-2, 3, 2), (0, 1)) if rng.random() < 0.6 else blob(rng, HEIGHT, WIDTH)
        category = annotation["category_id"] if rng.random() < 0.8 else int(rng.integers(1, categories + 1))
        region = region_of(mask)
        results.append((annotation["image_id"], category, region["bbox"], float(score), region["segmentation"]))
    return content, results


def region_of(mask):
    rle = mask_util.encode(np.asfortranarray(mask))
    box, area = mask_util.toBbox(rle).tolist(), float(mask_util.area(rle))
    return {"segmentation": {**rle, "counts": rle["counts"].decode()}, "bbox": box, "area": area}


def as_coco(content, results):
    """Files of annotations and results."""
    keys = ("image_id", "category_id", "bbox", "score", "segmentation")
    return json.dumps(content).encode(), json.dumps([dict(zip(keys, result)) for result in results]).encode()


@pytest.mark.parametrize("seed", range(3))
def test_vernier_has_the_same_boundary_ap(tmp_path, vernier, seed):
    content, results = blob_case(seed)
    store = stored(tmp_path, results)
    table = match_detections(GroundTruth(lvis_of(content)), store, "segm")
    lower = boundary_table(table, store)
    found = lvis_metrics(lower, *precision_and_recall(lower))
    from vernier.instance import Boundary, CocoDataset, Evaluator

    truth, detections = as_coco(content, results)
    summary = Evaluator(iou=Boundary(), parity_mode="strict").evaluate(CocoDataset.from_json(truth), detections)
    for name, value in zip(("AP", "AP50", "AP75"), summary.stats):
        assert found[name] == pytest.approx(100 * value, abs=1e-9), name
    assert found["AP"] < lvis_metrics(table, *precision_and_recall(table))["AP"] - 1


@pytest.mark.parametrize("seed", range(3))
def test_vernier_has_the_same_lrp_errors_and_thresholds(tmp_path, vernier, seed):
    content, results = blob_case(seed)
    table = match_detections(GroundTruth(lvis_of(content)), stored(tmp_path, results), "segm")
    number = table.objects.per_category(table.num_categories)
    found = optimal_lrp(rankings(table), number)
    from vernier.instance import CocoDataset, Segm
    from vernier.instance import optimal_lrp as theirs

    truth, detections = as_coco(content, results)
    scores = sorted({result[3] for result in results})
    report = theirs(CocoDataset.from_json(truth), detections, iou=Segm(), tau_grid=scores)
    for index, one in enumerate(report.per_class):
        own = found.error[index], found.false_positive[index], found.false_negative[index]
        np.testing.assert_allclose(own, [100 * v for v in (one.olrp, one.olrp_fp, one.olrp_fn)], atol=1e-9)
        assert found.localisation[index] == pytest.approx(100 * one.olrp_loc * 0.5, abs=1e-9)
        assert found.thresholds[index] == one.tau
