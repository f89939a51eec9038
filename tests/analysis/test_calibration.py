"""Calibration, LRP and thresholds against naive loops."""

import numpy as np
import pytest

from balanced_lvis.analysis.calibration import (
    ECE_BINS,
    LAECE_BINS,
    LAECE_IOU,
    Bins,
    bin_of,
    expected_calibration_error,
    laece,
    optimal_lrp,
    rankings,
    reliability_bins,
)
from balanced_lvis.analysis.per_category import at_threshold, best_f1
from tests import reference_analysis as reference
from tests.analysis.made import random_case, table_of
from tests.evaluation.made import made_content

BOX = [4, 4, 10, 8]


def by_category(table, content, results, threshold):
    found = reference.match(content, results, threshold)
    return [[f for f in found if f.category == c] for c in table.truth.category_ids.tolist()]


def numbers(table):
    return table.objects.per_category(table.num_categories)


@pytest.mark.parametrize("seed", range(4))
def test_ece_is_the_mean_gap_of_all_detections(tmp_path, seed):
    content, results = random_case(seed)
    bins = reliability_bins(table_of(tmp_path, content, results))
    pooled = Bins(bins.counts.sum(0), bins.true.sum(0), bins.scores.sum(0), bins.ious.sum(0))
    found = reference.match(content, results, 0.5)
    assert expected_calibration_error(pooled) == pytest.approx(reference.ece(found, ECE_BINS), abs=1e-9)
    rows = np.array(reference.reliability(found, ECE_BINS))
    np.testing.assert_allclose(np.stack([pooled.counts, pooled.true, pooled.scores, pooled.ious], 1), rows, atol=1e-9)
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(pooled.precision(), rows[:, 1] / rows[:, 0])
        np.testing.assert_allclose(pooled.mean_scores(), rows[:, 2] / rows[:, 0])


@pytest.mark.parametrize("seed", range(4))
def test_laece_is_that_of_the_paper_by_category_with_an_iou_threshold_of_one_tenth(tmp_path, seed):
    content, results = random_case(seed)
    table = table_of(tmp_path, content, results)
    found = by_category(table, content, results, LAECE_IOU)
    own = laece(table, numbers(table))
    np.testing.assert_allclose(own.all_detections, [reference.laece(one, LAECE_BINS) for one in found], atol=1e-9)
    above = [
        reference.laece_above_threshold(one, int(number), LAECE_BINS, LAECE_IOU)
        for one, number in zip(found, numbers(table))
    ]
    np.testing.assert_allclose(own.error, above, atol=1e-9)
    assert not np.allclose(own.error, own.all_detections)


def test_thresholding_first_gives_the_same_laece_as_matching_what_is_left(tmp_path):
    """As the authors do it: detections below the thresholds are removed, and the rest is evaluated."""
    content, results = random_case(1)
    table = table_of(tmp_path / "all", content, results)
    own = laece(table, numbers(table))
    least = dict(zip(table.truth.category_ids.tolist(), own.thresholds))
    left = [result for result in results if result[3] >= least[result[1]]]
    assert 0 < len(left) < len(results)
    again = laece(table_of(tmp_path / "left", content, left), numbers(table))
    np.testing.assert_allclose(again.all_detections, own.error)


def test_laece_is_not_defined_without_a_true_positive_or_detections(tmp_path):
    content = made_content([(1, 1, BOX), (1, 2, BOX)], negative=[(1, 3)])
    own = laece(table := table_of(tmp_path, content, [(1, 1, [20, 14, 6, 6], 0.9)]), numbers(table))
    np.testing.assert_array_equal(own.error, [np.nan] * 4)
    np.testing.assert_allclose(own.all_detections, [90, np.nan, np.nan, np.nan])


def test_bins_include_their_upper_edge():
    assert bin_of(np.array([0, 0.1, 0.1001, 0.5, 0.9, 1.0]), 10).tolist() == [0, 0, 1, 4, 8, 9]


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_optimal_lrp_and_best_f1_are_the_best_of_all_thresholds(tmp_path, seed, ties):
    content, results = random_case(seed)
    if ties:
        results = [(i, c, box, round(10 * score) / 10) for i, c, box, score in results]
    table = table_of(tmp_path, content, results)
    ranked = rankings(table)
    lrp, f1 = optimal_lrp(ranked, numbers(table)), best_f1(ranked, numbers(table))
    for k, found in enumerate(by_category(table, content, results, 0.5)):
        number = int(numbers(table)[k])
        scores = sorted({f.score for f in found if f.status != "ignored"}, reverse=True)
        best = min((reference.lrp_at(found, number, s) for s in scores), key=lambda values: values[0])
        columns = (lrp.error, lrp.localisation, lrp.false_positive, lrp.false_negative)
        np.testing.assert_allclose([column[k] for column in columns], best, atol=1e-9)
        np.testing.assert_allclose(reference.lrp_at(found, number, lrp.thresholds[k]), best, atol=1e-9)
        assert f1.f1[k] == pytest.approx(max(reference.f1_at(found, number, s) for s in scores))
        assert f1.f1[k] == pytest.approx(reference.f1_at(found, number, f1.thresholds[k]))


@pytest.mark.parametrize("seed", range(3))
def test_precision_and_recall_at_a_threshold(tmp_path, seed):
    content, results = random_case(seed)
    table = table_of(tmp_path, content, results)
    threshold = results[3][3]  # of a detection, which is kept
    points = at_threshold(rankings(table), numbers(table), threshold)
    for k, found in enumerate(by_category(table, content, results, 0.5)):
        kept = [f for f in found if f.score >= threshold and f.status != "ignored"]
        true = sum(f.status == "true" for f in kept)
        assert (points.true[k], points.false[k]) == (true, len(kept) - true)
        assert points.precision[k] == pytest.approx(100 * true / len(kept) if kept else np.nan, nan_ok=True)
        assert points.recall[k] == pytest.approx(100 * true / numbers(table)[k])


def test_a_category_that_is_never_found_has_no_threshold_and_the_full_error(tmp_path):
    content = made_content([(1, 1, BOX), (1, 2, BOX)], negative=[(1, 3)])
    table = table_of(tmp_path, content, [(1, 1, [20, 14, 6, 6], 0.9), (1, 3, BOX, 0.8)])
    ranked = rankings(table)
    lrp, f1 = optimal_lrp(ranked, numbers(table)), best_f1(ranked, numbers(table))
    np.testing.assert_array_equal(lrp.error, [100, 100, np.nan, np.nan])
    assert np.isnan(lrp.thresholds).all() and np.isnan(f1.thresholds).all()
    np.testing.assert_array_equal(f1.f1, [0, 0, np.nan, np.nan])
    np.testing.assert_array_equal(f1.recall, [0, 0, np.nan, np.nan])


def test_a_perfectly_calibrated_detector_has_no_error(tmp_path):
    content = made_content([(i, 1, BOX) for i in range(1, 4)], images=4, negative=[(4, 1)])
    results = [(i, 1, BOX, 0.75) for i in range(1, 5)]
    bins = reliability_bins(table_of(tmp_path, content, results))
    assert expected_calibration_error(Bins(bins.counts[0], bins.true[0], bins.scores[0], bins.ious[0])) == 0
