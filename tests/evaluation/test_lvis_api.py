"""Evaluation on the real annotations of LVIS, against the unmodified API's own numbers."""

import copy
import json
import math
import subprocess
import sys

import numpy as np
import pytest
from pycocotools import mask as mask_util

from balanced_lvis.evaluation import LVIS, evaluate_on_lvis
from balanced_lvis.evaluation.lvis_api import METRICS
from balanced_lvis.utils.errors import InputError
from tests.common import SHARED_DATA
from tests.evaluation.made import box_annotation

REAL = SHARED_DATA / "lvis_val_100.json"


@pytest.fixture
def ground_truth(tmp_path):
    """
    The 100 real images where they are at hand, else annotations of the same form and size.

    Read anew for every test: the API turns polygons into RLEs in place.
    """
    path = REAL
    if not path.exists():
        path = tmp_path / "made.json"
        path.write_text(json.dumps(made_annotations()))
    return LVIS(str(path))


def made_annotations(images=40, categories=30, seed=0):
    rng = np.random.default_rng(seed)
    content = {"images": [], "annotations": [], "categories": []}
    for c in range(1, categories + 1):
        content["categories"].append({"id": c, "name": f"c{c}", "frequency": "rcf"[c % 3], "image_count": c})
    for i in range(1, images + 1):
        present = (1 + rng.permutation(categories)[:8]).tolist()
        image = {"id": i, "height": 240, "width": 320, "neg_category_ids": present[4:]}
        content["images"].append({**image, "not_exhaustive_category_ids": present[:1]})
        for category in present[:4]:
            box = rng.uniform([0, 0, 8, 8], [200, 120, 110, 110]).tolist()
            content["annotations"].append(box_annotation(len(content["annotations"]) + 1, i, category, box))
    return content


def predictions(lvis_gt, degrade=0.0, seed=0):
    """Detections made from the annotations; with ``degrade``, moved, mislabelled, dropped, doubled and rescored."""
    rng = np.random.default_rng(seed)
    categories = sorted(lvis_gt.cats)
    results = []
    for annotation in lvis_gt.anns.values():
        image = lvis_gt.imgs[annotation["image_id"]]
        if rng.random() < degrade / 4:
            continue
        for _ in range(2 if rng.random() < degrade / 2 else 1):
            x, y, w, h = annotation["bbox"]
            shift = dx, dy = rng.normal(0, degrade * 0.2, 2) * (w, h)
            polygons = [(np.reshape(p, (-1, 2)) + np.array(shift)).ravel().tolist() for p in annotation["segmentation"]]
            rle = mask_util.merge(mask_util.frPyObjects(polygons, image["height"], image["width"]))
            category = annotation["category_id"] if rng.random() > degrade / 4 else rng.choice(categories)
            score = float(rng.choice([rng.random(), 0.5]))  # half of them tied
            results.append(
                {
                    "image_id": annotation["image_id"],
                    "category_id": int(category),
                    "bbox": [x + dx, y + dy, w, h],
                    "segmentation": rle,
                    "score": score if degrade else 1.0,
                }
            )
    return results


@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_perfect_predictions_score_100(ground_truth, task):
    metrics, per_category = evaluate_on_lvis(ground_truth, predictions(ground_truth), task)
    for name in ("AP", "AP50", "AP75", "APr", "APc", "APf"):
        assert metrics[name] == pytest.approx(100), name
    annotated = {a["category_id"] for a in ground_truth.anns.values()}
    for category, value in per_category.items():
        assert value == pytest.approx(100) if category in annotated else math.isnan(value)


# The API in a process of its own, where nothing of balanced_lvis is imported; np.float is lent to it by hand.
OFFICIAL = """
import json, sys
import numpy as np
np.float = float
from lvis import LVIS, LVISResults, LVISEval
gt, results, task = json.load(open(sys.argv[1]))
lvis_gt = LVIS(gt)
if task == "segm":
    [r.pop("bbox") for r in results]
evaluation = LVISEval(lvis_gt, LVISResults(lvis_gt, results, max_dets=300), task)
evaluation.run()
print(json.dumps(dict(evaluation.get_results())))
"""


@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_degraded_predictions_equal_the_official_apis_numbers(ground_truth, task, tmp_path):
    results = predictions(ground_truth, degrade=0.5)
    serialised = copy.deepcopy(results)
    for result in serialised:
        result["segmentation"]["counts"] = result["segmentation"]["counts"].decode()
    (tmp_path / "gt.json").write_text(json.dumps(ground_truth.dataset))
    (tmp_path / "in.json").write_text(json.dumps([str(tmp_path / "gt.json"), serialised, task]))
    command = [sys.executable, "-W", "ignore", "-c", OFFICIAL, str(tmp_path / "in.json")]
    official = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    metrics, _ = evaluate_on_lvis(ground_truth, results, task)
    assert 5 < metrics["AP"] < 95
    for name in METRICS:
        assert metrics[name] == official[name] * 100, name


def test_ap_is_the_mean_over_categories(ground_truth):
    metrics, per_category = evaluate_on_lvis(ground_truth, predictions(ground_truth, degrade=0.5), "bbox")
    values = [value for value in per_category.values() if not math.isnan(value)]
    assert metrics["AP"] == pytest.approx(np.mean(values))


def test_results_are_not_changed(ground_truth):
    results = predictions(ground_truth)[:20]
    before = copy.deepcopy(results)
    for task in ("bbox", "segm"):
        evaluate_on_lvis(ground_truth, results, task)
    assert results == before


def test_a_model_that_detects_nothing_scores_0(ground_truth):
    metrics, _ = evaluate_on_lvis(ground_truth, [], "segm")
    assert metrics["AP"] == 0


def test_groups_without_ground_truth_have_no_value(tmp_path):
    content = made_annotations(5, 6)
    for category in content["categories"]:
        category["frequency"] = "f"
    (tmp_path / "gt.json").write_text(json.dumps(content))
    lvis_gt = LVIS(str(tmp_path / "gt.json"))
    metrics, _ = evaluate_on_lvis(lvis_gt, predictions(lvis_gt), "bbox")
    assert math.isnan(metrics["APr"])
    assert metrics["APf"] == pytest.approx(100)


def test_numpy_itself_is_left_as_it_is():
    assert not hasattr(np, "float")


def test_unknown_images_and_tasks_are_named(ground_truth):
    with pytest.raises(InputError, match=r"1 image\(s\).*image_id 999999999"):
        evaluate_on_lvis(ground_truth, [{"image_id": 999999999}], "bbox")
    with pytest.raises(InputError, match="'keypoints'; valid: 'bbox', 'segm'"):
        evaluate_on_lvis(ground_truth, [], "keypoints")
