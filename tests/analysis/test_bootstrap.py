"""The bootstrap against evaluations of datasets in which images occur several times."""

import copy

import numpy as np
import pytest

from balanced_lvis.analysis import average_precision, bootstrap
from balanced_lvis.analysis.average_precision import lvis_metrics, precision_and_recall
from balanced_lvis.analysis.bootstrap import (
    centred_interval,
    image_weights,
    paired_difference,
    recalls_reached,
    resampled_ap,
)
from tests.analysis.made import random_case, table_of
from tests.evaluation.made import made_content

METRICS = ("AP", "APr", "APc", "APf")


def repeated(content, results, weights):
    """The dataset and the results with each image as often as its weight."""
    images, annotations, found = [], [], []
    for image, weight in zip(content["images"], weights):
        for _ in range(int(weight)):
            new_id = len(images) + 1
            images.append({**image, "id": new_id})
            for annotation in content["annotations"]:
                if annotation["image_id"] == image["id"]:
                    annotations.append({**copy.deepcopy(annotation), "id": len(annotations) + 1, "image_id": new_id})
            found += [(new_id, *rest) for i, *rest in results if i == image["id"]]
    return {**content, "images": images, "annotations": annotations}, found


@pytest.mark.parametrize("seed", range(3))
def test_a_resample_has_the_ap_of_a_dataset_with_repeated_images(tmp_path, seed):
    content, results = random_case(seed)
    table = table_of(tmp_path / "all", content, results)
    weights = image_weights(len(content["images"]), 6, seed)
    for index, (found, own) in enumerate(zip(resampled_ap(table, weights), weights)):
        resample = table_of(tmp_path / str(index), *repeated(content, results, own))
        expected = lvis_metrics(resample, *precision_and_recall(resample))
        np.testing.assert_allclose(found, [expected[name] for name in METRICS], rtol=1e-12)


def test_equal_weights_give_the_ap_of_the_dataset(tmp_path):
    content, results = random_case(3)
    table = table_of(tmp_path, content, results)
    metrics = lvis_metrics(table, *precision_and_recall(table))
    (found,) = resampled_ap(table, np.ones((1, len(content["images"])), np.int16))
    np.testing.assert_allclose(found, [metrics[name] for name in METRICS], rtol=1e-12)


def test_a_group_without_objects_in_a_resample_has_no_ap(tmp_path):
    content = made_content([(1, 1, [4, 4, 9, 9]), (2, 3, [4, 4, 9, 9])])  # common and rare
    table = table_of(tmp_path, content, [(1, 1, [4, 4, 9, 9], 0.5)])
    found = resampled_ap(table, np.array([[4, 0, 0, 0], [0, 4, 0, 0], [0, 0, 4, 0]], np.int16))
    np.testing.assert_allclose(found[0], [100, np.nan, 100, np.nan])
    np.testing.assert_allclose(found[1], [0, 0, np.nan, np.nan])
    assert np.isnan(found[2]).all()


def test_each_resample_draws_as_many_images_as_there_are():
    weights = image_weights(50, 20, seed=1)
    assert (weights.sum(axis=1) == 50).all()
    np.testing.assert_array_equal(weights, image_weights(50, 20, seed=1))
    assert (weights != image_weights(50, 20, seed=2)).any()


@pytest.mark.parametrize("number", [1, 3, 7, 50, 100, 131])
def test_recalls_reached_are_counted_as_the_lvis_api_counts_them(number):
    recalls = np.linspace(0, 1, 101)
    expected = [sum(threshold <= true / number for threshold in recalls) for true in range(number + 1)]
    np.testing.assert_array_equal(recalls_reached(number), expected)


def test_the_interval_is_centred_and_leaves_out_undefined_resamples():
    interval = centred_interval(30.0, np.array([31.0, 32, 33, np.nan]), level=0.9)
    assert interval.bias == pytest.approx(2)
    assert (interval.low, interval.high) == pytest.approx((29.1, 30.9))
    assert interval.standard_error == pytest.approx(1)
    assert np.isnan(centred_interval(30.0, np.array([np.nan, 1])).low)


def test_intervals_are_clipped_to_possible_values():
    skewed = np.append(np.full(90, 100.0), np.linspace(0, 20, 10))
    assert centred_interval(99.0, skewed, level=0.9).high == 100
    assert centred_interval(1.0, 100 - skewed, level=0.9).low == 0
    difference = paired_difference((-98.0, -skewed), (0.0, np.zeros(100)), level=0.9)
    assert difference.low == -100 and difference.value == -98


def test_the_bias_of_a_category_of_one_image_is_that_of_its_mean_weight():
    """Where the image is drawn at all, it is drawn 1 / (1 - 1/e) = 1.58 times on average."""
    weights = image_weights(400, 3000, 0)[:, 0]
    assert weights[weights > 0].mean() == pytest.approx(1.58, abs=0.04)


def test_about_95_percent_of_the_intervals_contain_the_expected_ap(tmp_path):
    """Datasets of 40 images are drawn from one population; each has an interval for the mean AP of all."""
    datasets, images = 100, 40
    rng = np.random.default_rng(5)
    objects, results = [], []
    for image in range(1, datasets * images + 1):
        box = [4, 4, 10, 10]
        category = int(rng.integers(1, 3))
        objects.append((image, category, box))
        if rng.random() < 0.7:
            results.append((image, category, box, float(rng.beta(3, 2))))
        if rng.random() < 0.5:
            results.append((image, category, [18, 12, 10, 10], float(rng.beta(2, 3))))
    table = table_of(tmp_path, made_content(objects, images=datasets * images, categories=2), results)
    own = image_weights(images, 200, 1)
    values, intervals = [], []
    for first in range(0, datasets * images, images):
        weights = np.zeros((len(own) + 1, datasets * images), np.int16)
        weights[0, first : first + images], weights[1:, first : first + images] = 1, own
        inside = (table.images >= first) & (table.images < first + images)
        value, *resamples = resampled_ap(table.select(inside), weights)[:, 0]
        values.append(value)
        intervals.append(centred_interval(value, np.array(resamples)))
    expected = np.mean(values)
    covered = np.mean([interval.low <= expected <= interval.high for interval in intervals])
    assert 0.89 <= covered <= 0.99


@pytest.mark.parametrize("block", [1, 7, 50])
def test_blocks_that_limit_memory_do_not_change_the_numbers(tmp_path, monkeypatch, block):
    content, results = random_case(1)
    table = table_of(tmp_path, content, results)
    weights = image_weights(len(content["images"]), 12, 0)
    expected, whole = resampled_ap(table, weights), precision_and_recall(table)
    monkeypatch.setattr(bootstrap, "BLOCK", block)
    monkeypatch.setattr(average_precision, "BLOCK", block)
    np.testing.assert_allclose(resampled_ap(table, weights), expected, rtol=1e-12)
    for found, known in zip(precision_and_recall(table), whole):
        np.testing.assert_array_equal(found, known)


def test_the_difference_of_a_result_with_itself_is_certain(tmp_path):
    content, results = random_case(0)
    table = table_of(tmp_path, content, results)
    resamples = resampled_ap(table, image_weights(len(content["images"]), 30, 0))[:, 0]
    same = paired_difference((20.0, resamples), (20.0, resamples))
    assert (same.value, same.low, same.high, same.standard_error) == (0, 0, 0, 0)


def test_the_interval_of_a_difference_is_narrower_than_that_of_two_independent_results(tmp_path):
    content, results = random_case(0)
    weaker = [(i, c, box, score if index % 9 else 0.01) for index, (i, c, box, score) in enumerate(results)]
    weights = image_weights(len(content["images"]), 200, 0)
    first, second = (
        resampled_ap(table_of(tmp_path / str(index), content, own), weights)[:, 0]
        for index, own in enumerate((results, weaker))
    )
    pair = paired_difference((first.mean(), first), (second.mean(), second))
    independent = np.hypot(first.std(ddof=1), second.std(ddof=1))
    assert 0 < pair.standard_error < 0.8 * independent
