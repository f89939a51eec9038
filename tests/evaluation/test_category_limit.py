"""The limit per category over the dataset leaves out only what neither AP nor AP-fixed looks at."""

import numpy as np
import pytest

from balanced_lvis.analysis import matching
from balanced_lvis.analysis.average_precision import lvis_metrics, pooled_ap, precision_and_recall
from balanced_lvis.analysis.matching import match_detections
from balanced_lvis.config import load_config
from balanced_lvis.engine.config_checks import check_config
from balanced_lvis.evaluation import category_limit
from balanced_lvis.evaluation.backends import GroundTruth
from balanced_lvis.evaluation.category_limit import CategoryLimit
from balanced_lvis.evaluation.lvis_evaluator import LVISEvaluator
from balanced_lvis.utils.errors import InputError
from tests.analysis.made import IMAGES, random_case
from tests.evaluation.made import lvis_of, stored

PER_IMAGE, PER_CATEGORY = 3, 4


def numbers(table):
    metrics = [
        lvis_metrics(part, *precision_and_recall(part)) for part in map(table.select, (table.standard, table.fixed))
    ]
    return [*(list(one.values()) for one in metrics), list(pooled_ap(table.select(table.fixed)).values())]


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_ap_ap_fixed_and_ap_pool_are_the_same_as_of_all_detections(tmp_path, monkeypatch, seed, ties):
    for module in (matching, category_limit):
        monkeypatch.setattr(module, "MAX_DETECTIONS_PER_IMAGE", PER_IMAGE)
    monkeypatch.setattr(matching, "DETECTIONS_PER_CATEGORY", PER_CATEGORY)
    content, results = random_case(seed)
    if ties:
        results = [(i, c, box, round(5 * score) / 5) for i, c, box, score in results]
    limit, left = CategoryLimit(PER_CATEGORY), []
    for image in range(1, IMAGES + 1):
        own = [result for result in results if result[0] == image]
        kept = limit.select(np.array([r[3] for r in own]), np.array([r[1] for r in own]))
        left += [result for result, is_kept in zip(own, kept) if is_kept]
    assert PER_IMAGE * IMAGES < len(left) < 0.8 * len(results)
    in_order = sorted(results, key=lambda result: result[0])
    tables = [
        match_detections(GroundTruth(lvis_of(content)), stored(tmp_path / name, records), "bbox")
        for name, records in (("all", in_order), ("left", left))
    ]
    np.testing.assert_array_equal(*map(np.concatenate, map(numbers, tables)))


def test_an_image_without_detections_is_no_problem():
    assert CategoryLimit(1).select(np.zeros(0), np.zeros(0, np.int64)).shape == (0,)


def test_the_evaluator_stores_what_is_selected(tiny_cfg, tmp_path):
    from balanced_lvis.engine.trainer import Trainer

    tiny_cfg.merge_from_list(["TEST.DETECTIONS_PER_IMAGE", 350, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0])
    tiny_cfg.merge_from_list(["TEST.DETECTIONS_PER_CATEGORY", 5])
    model = Trainer.build_model(tiny_cfg)
    results = {}
    for name in ("limited", "all"):
        tiny_cfg.OUTPUT_DIR = str(tmp_path / name)
        results[name] = Trainer.test(tiny_cfg, model)
        tiny_cfg.TEST.DETECTIONS_PER_CATEGORY = 0
    assert repr(results["limited"]) == repr(results["all"])
    sizes = [(tmp_path / n / "inference" / "lvis_instances_results.json").stat().st_size for n in ("limited", "all")]
    assert sizes[0] < sizes[1]
    assert isinstance(Trainer.build_evaluator(tiny_cfg, "rendered_val"), LVISEvaluator)


def test_the_config_for_ap_fixed_is_a_second_base(tmp_path):
    (tmp_path / "fixed.yaml").write_text('_BASE_: ["r50_rfs", "base/ap_fixed_inference"]\n')
    cfg, plain = load_config(tmp_path / "fixed.yaml"), load_config("r50_rfs")
    assert (cfg.TEST.DETECTIONS_PER_IMAGE, cfg.TEST.DETECTIONS_PER_CATEGORY) == (2000, 10_000)
    assert cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST == 0
    plain.TEST, plain.MODEL.ROI_HEADS.SCORE_THRESH_TEST = cfg.TEST, 0.0
    assert cfg == plain


def test_a_negative_limit_is_refused():
    cfg = load_config("r50_rfs", ["TEST.DETECTIONS_PER_CATEGORY", -1])
    with pytest.raises(InputError, match=r"TEST.DETECTIONS_PER_CATEGORY is -1; it must be 0, for all, or more"):
        check_config(cfg, 1, evaluation_only=True)
