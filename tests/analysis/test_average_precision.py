"""AP, AP-fixed, AP-pool and boundary AP against the LVIS API and naive loops."""

import json
import math

import numpy as np
import pytest
from pycocotools import mask as mask_util

from balanced_lvis.analysis import matching
from balanced_lvis.analysis.average_precision import lvis_metrics, pooled_ap, precision_and_recall
from balanced_lvis.analysis.boundary import boundary_table, lower_ious
from balanced_lvis.analysis.matching import TRUE, match_detections
from balanced_lvis.evaluation import Detections, evaluate_on_lvis
from balanced_lvis.evaluation.backends import GroundTruth
from benchmarks.lvis_evaluation import make_data
from tests import reference_analysis as reference
from tests.analysis.made import random_case, table_of
from tests.evaluation.made import box_mask, lvis_of, made_content, stored

BOX = [4, 4, 10, 8]


def metrics_of(table) -> dict[str, float]:
    return lvis_metrics(table, *precision_and_recall(table))


def as_records(results) -> list[dict]:
    return [
        {"image_id": i, "category_id": c, "bbox": box, "score": score, "segmentation": box_mask(box)}
        for i, c, box, score in results
    ]


def assert_identical(found: dict, expected: dict):
    assert list(found) == list(expected)
    np.testing.assert_array_equal(list(found.values()), list(expected.values()))


@pytest.mark.parametrize("task", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(4))
def test_ap_of_the_table_is_that_of_the_lvis_api_to_the_last_digit(tmp_path, monkeypatch, task, seed):
    monkeypatch.setattr("balanced_lvis.analysis.pairs.BLOCK", 7)
    content, results = random_case(seed)
    results = [(i, c, box, round(4 * score) / 4) for i, c, box, score in results]  # ties
    expected, _ = evaluate_on_lvis(lvis_of(content), as_records(results), task)
    table = table_of(tmp_path, content, results, task)
    assert_identical(metrics_of(table.select(table.standard)), expected)
    assert 1 < expected["AP"] < 90


@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_ap_of_many_categories_is_that_of_the_lvis_api(tmp_path, task):
    make_data({"folder": str(tmp_path), "images": 6})
    content, found = json.loads((tmp_path / "annotations.json").read_text()), Detections(tmp_path / "detections")
    expected, _ = evaluate_on_lvis(lvis_of(content), [r for batch in found.records() for r in batch], task)
    assert_identical(metrics_of(match_detections(GroundTruth(lvis_of(content)), found, task)), expected)


def test_one_matching_serves_the_limit_per_image_and_the_limit_per_category(tmp_path, monkeypatch):
    content, results = random_case(5, detections=300)
    monkeypatch.setattr(matching, "MAX_DETECTIONS_PER_IMAGE", 6)
    monkeypatch.setattr(matching, "DETECTIONS_PER_CATEGORY", 11)
    table = table_of(tmp_path, content, results)
    records = as_records(results)
    expected, _ = evaluate_on_lvis(lvis_of(content), records, "bbox", max_dets=6)
    assert_identical(metrics_of(table.select(table.standard)), expected)
    best = [  # as in the authors' evaluate_ap_fixed.py: before detections on other images are left out
        record
        for c in range(1, 6)
        for record in sorted((r for r in records if r["category_id"] == c), key=lambda r: -r["score"])[:11]
    ]
    fixed, _ = evaluate_on_lvis(lvis_of(content), best, "bbox", max_dets=-1)
    assert_identical(metrics_of(table.select(table.fixed)), fixed)
    assert fixed["AP"] != expected["AP"]


@pytest.mark.parametrize("seed", range(3))
def test_pooled_ap_ranks_the_detections_of_all_categories_together(tmp_path, seed):
    content, results = random_case(seed)
    pooled = pooled_ap(table_of(tmp_path, content, results))
    groups = {c["id"]: c["frequency"] for c in content["categories"]}
    for pool in ("all", "r", "c", "f"):
        members = [c for c, group in groups.items() if pool in ("all", group)]
        number = sum(reference.number_of_objects(content, c) for c in members)
        values = []
        for threshold in np.linspace(0.5, 0.95, 10):
            found = [f for f in reference.match(content, results, threshold) if f.category in members]
            ranked = [(f.score, f.status == "true") for f in found if f.status != "ignored"]
            values.append(100 * reference.average_precision(ranked, number))
        assert pooled[pool] == pytest.approx(np.mean(values), abs=1e-9)


def test_a_pool_without_objects_has_no_ap(tmp_path):
    pooled = pooled_ap(table_of(tmp_path, made_content([(1, 1, BOX)]), [(1, 1, BOX, 0.5)]))
    assert pooled["all"] == pytest.approx(100)
    assert math.isnan(pooled["r"])


def test_federation_changes_the_result(tmp_path):
    """Evaluated as if every category were annotated everywhere, false positives appear that nobody has checked."""
    content, results = random_case(1)
    exhaustive = {**content, "images": []}
    for image in content["images"]:
        present = {a["category_id"] for a in content["annotations"] if a["image_id"] == image["id"]}
        absent = [c for c in range(1, 6) if c not in present]
        exhaustive["images"].append({**image, "neg_category_ids": absent, "not_exhaustive_category_ids": []})
    federated, other = (
        metrics_of(table_of(tmp_path / str(index), c, results)) for index, c in enumerate((content, exhaustive))
    )
    assert federated["AP"] > other["AP"] + 1


# ------------------------------------------------------------------ boundaries


def blob(rng, height=40, width=60) -> np.ndarray:
    """A mask with a rough outline, sometimes with holes or at the edge of the image."""
    y, x = np.mgrid[:height, :width]
    centre, radius = rng.uniform((0, 0), (height, width)), rng.uniform(3, 25, 2)
    inside = ((y - centre[0]) / radius[0]) ** 2 + ((x - centre[1]) / radius[1]) ** 2 < 1
    mask = inside & (rng.random((height, width)) > rng.choice([0, 0.002]))
    mask[int(centre[0]) % height, int(centre[1]) % width] = True
    return mask.astype(np.uint8)


@pytest.mark.parametrize("ratio", [0.02, 0.06])
def test_boundary_iou_is_that_of_loops_over_pixels(monkeypatch, ratio):
    monkeypatch.setattr("balanced_lvis.analysis.boundary.DILATION_RATIO", ratio)
    monkeypatch.setattr(reference.boundary, "__defaults__", (ratio,))
    from balanced_lvis.analysis.boundary import dilation_of

    dilation_of.cache_clear()
    rng = np.random.default_rng(0)
    masks = [blob(rng) for _ in range(14)]
    rles = [mask_util.encode(np.asfortranarray(mask)) for mask in masks]
    ious = mask_util.iou(rles, rles, [0] * len(rles))
    first, second = np.nonzero(ious > 0)
    found = lower_ious(rles, rles, first, second, ious[first, second])
    expected = [
        min(ious[i, j], reference.boundary_iou(masks[i].tolist(), masks[j].tolist())) for i, j in zip(first, second)
    ]
    np.testing.assert_array_equal(found, expected)
    assert np.mean(found < ious[first, second]) > 0.1
    dilation_of.cache_clear()


def test_boundary_ap_matches_by_the_lower_iou(tmp_path):
    """Of a large mask, all but the outermost pixels are found: the mask IoU is high, and the boundary IoU is 0."""
    content = made_content([(1, 1, [2, 2, 20, 20]), (2, 1, [2, 2, 20, 20])])
    inner = [(1, 1, [3, 3, 18, 18], 0.9, box_mask([3, 3, 18, 18])), (2, 1, [2, 2, 20, 20], 0.8)]
    store = stored(tmp_path, inner)
    table = match_detections(GroundTruth(lvis_of(content)), store, "segm")
    lower = boundary_table(table, store)
    assert (table.status[0, 0] == TRUE).tolist() == [True, True]
    assert (lower.status[0, 0] == TRUE).tolist() == [False, True]
    assert metrics_of(lower)["AP"] < metrics_of(table)["AP"]


def test_boundaries_of_annotated_rles_are_those_of_the_same_polygons(tmp_path):
    content, results = random_case(0)
    store = stored(tmp_path, results)
    as_rles = json.loads(json.dumps(content))
    for annotation in as_rles["annotations"]:
        rle = mask_util.merge(mask_util.frPyObjects(annotation["segmentation"], 24, 32))
        annotation["segmentation"] = {**rle, "counts": rle["counts"].decode()}
    tables = [match_detections(GroundTruth(lvis_of(c)), store, "segm") for c in (content, as_rles)]
    ious = [boundary_table(table, store).pairs.ious for table in tables]
    np.testing.assert_array_equal(*ious)
    assert (ious[0] < 1).any()


def test_boundaries_of_rendered_data_are_those_of_opencv_on_whole_images(tmp_path):
    cv2 = pytest.importorskip("cv2")
    make_data({"folder": str(tmp_path), "images": 3})
    content, found = json.loads((tmp_path / "annotations.json").read_text()), Detections(tmp_path / "detections")
    table = match_detections(GroundTruth(lvis_of(content)), found, "segm")
    lower = boundary_table(table, found)
    objects = {a["id"]: a for a in content["annotations"]}

    def edge(mask):
        padded = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
        return mask - cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=16)[1:-1, 1:-1]

    lowered = 0
    for detection, index, iou in list(zip(lower.pairs.detections, lower.pairs.objects, lower.pairs.ious))[:60]:
        annotation = objects[int(table.objects.ids[index])]
        mine = mask_util.decode(next(found.rles(table.rows[[detection]])))
        other = mask_util.decode(mask_util.merge(mask_util.frPyObjects(annotation["segmentation"], 480, 640)))
        mask_iou = np.count_nonzero(mine & other) / np.count_nonzero(mine | other)
        one, two = edge(mine), edge(other)
        boundary_iou = np.count_nonzero(one & two) / np.count_nonzero(one | two)
        assert iou == min(mask_iou, boundary_iou)
        lowered += boundary_iou < mask_iou
    assert lowered > 5
