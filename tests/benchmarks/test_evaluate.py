"""The suite of the LVIS evaluation on a small dataset, in this process."""

import json

import numpy as np

from balanced_lvis.evaluation import Detections
from benchmarks import SUITES, Options
from benchmarks import lvis_evaluation as evaluate
from tests.benchmarks.in_process import in_this_process


def test_both_contenders_find_the_same_13_numbers_at_every_size(monkeypatch):
    monkeypatch.setattr(evaluate, "in_fresh_process", in_this_process(evaluate))
    rows = SUITES["evaluate"](Options(images=10, rounds=2))
    sizes = [f"{images} images x 300 detections, {task}" for images in (1, 10) for task in ("bbox", "segm")]
    assert [row["size"] for row in rows] == sizes
    assert all(row["identical"] for row in rows)
    assert all(row["suite"] == "evaluate" and row["ratio_min"] <= row["ratio"] <= row["ratio_max"] for row in rows)


def test_the_data_has_lvis_densities(tmp_path):
    evaluate.make_data({"folder": str(tmp_path), "images": 60})
    content = json.loads((tmp_path / "annotations.json").read_text())
    assert len(content["categories"]) == 1203
    groups = [category["frequency"] for category in content["categories"]]
    assert [groups.count(group) for group in "rcf"] == [337, 461, 405]
    found = Detections(tmp_path / "detections")
    assert np.unique(found.image_ids, return_counts=True)[1].tolist() == [300] * 60
    assert found.has_masks
    judged = {(a["image_id"], a["category_id"]) for a in content["annotations"]}
    assert 10 < len(content["annotations"]) / 60 < 14
    assert 3 < len(judged) / 60 < 4
    judged |= {(i["id"], c) for i in content["images"] for c in i["neg_category_ids"]}
    pairs = zip(found.image_ids.tolist(), found.category_ids.tolist())
    assert 0.25 < np.mean([pair in judged for pair in pairs]) < 0.4
