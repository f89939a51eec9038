"""Error types and confusion against naive loops."""

import numpy as np
import pytest

from balanced_lvis.analysis.confusion import confused_pairs
from balanced_lvis.analysis.error_types import ERROR_TYPES, SIZES, ap_lost, find_errors, size_of
from tests import reference_analysis as reference
from tests.analysis.made import random_case, table_of
from tests.evaluation.made import made_content

BOX = [4, 4, 10, 8]
AWAY = [20, 14, 6, 6]


@pytest.mark.parametrize("seed", range(8))
def test_types_objects_and_missed_objects_are_those_of_loops(tmp_path, seed):
    content, results = random_case(seed)
    table = table_of(tmp_path, content, results)
    found = find_errors(table)
    expected, missed, fixes = reference.error_types(content, results)
    types = {int(row): ERROR_TYPES[index] for row, index in zip(table.rows, found.types) if index >= 0}
    assert types == {index: name for index, (name, _) in expected.items()}
    assert set(types.values()) >= {"classification", "localisation", "background"}
    ids = np.append(table.objects.ids, -1)
    objects = {int(row): int(i) for row, i in zip(table.rows, ids[found.objects]) if i > 0}
    assert objects == {index: annotation for index, (_, annotation) in expected.items() if annotation}
    assert set(table.objects.ids[found.missed].tolist()) == missed
    assert set(table.rows[found.fixes].tolist()) == fixes


@pytest.mark.parametrize("seed", range(4))
def test_ap_lost_is_that_of_corrected_detections(tmp_path, seed):
    content, results = random_case(seed)
    areas = {a["id"]: a["area"] for a in content["annotations"]}
    table = table_of(tmp_path, content, results)
    by_category, by_size = ap_lost(table, find_errors(table))
    ids = table.truth.category_ids.tolist()
    for index, name in enumerate(ERROR_TYPES):
        expected = reference.ap_lost(content, results, name)
        np.testing.assert_allclose(by_category[index], [expected.get(c, np.nan) for c in ids], atol=1e-9)
        assert by_size[index, 0] == pytest.approx(np.nanmean(by_category[index]), abs=1e-9)  # all are small
    assert all(area < 32**2 for area in areas.values())
    assert (np.nanmean(by_category, axis=1) > 0.5).sum() >= 4


def test_only_errors_of_a_size_are_corrected_for_it(tmp_path, monkeypatch):
    ranges = [(0, 60), (60, 90), (90, np.inf)]
    monkeypatch.setattr("balanced_lvis.analysis.error_types._disjoint_ranges", lambda: ranges)
    content, results = random_case(2)
    areas = {a["id"]: a["area"] for a in content["annotations"]}
    table = table_of(tmp_path, content, results)
    _, by_size = ap_lost(table, find_errors(table))

    def area_of(index, annotation):
        return areas[annotation] if annotation else results[index][2][2] * results[index][2][3]

    for index, name in enumerate(ERROR_TYPES):
        for size, (low, high) in enumerate(ranges):
            lost = reference.ap_lost(content, results, name, lambda *which: low <= area_of(*which) < high)  # noqa: B023
            assert by_size[index, size] == pytest.approx(np.mean([*lost.values()]), abs=1e-9), (name, SIZES[size])


def test_sizes_do_not_overlap():
    assert [SIZES[i] for i in size_of(np.array([0, 1023.9, 1024, 9215, 9216, 1e12]))] == [
        "small", "small", "medium", "medium", "large", "large",
    ]  # fmt: skip


def test_unknown_and_not_exhaustive_categories_make_no_errors(tmp_path):
    content = made_content([(1, 1, BOX), (1, 2, AWAY)], negative=[(1, 3)], not_exhaustive=[(1, 2)])
    results = [(1, 3, BOX, 0.9), (1, 4, BOX, 0.8), (1, 2, BOX, 0.7)]  # known to be absent, unknown, not exhaustive
    table = table_of(tmp_path, content, results)
    errors = find_errors(table)
    assert {ERROR_TYPES[i]: r for i, r in zip(errors.types, table.rows) if i >= 0} == {"classification": 0}
    assert errors.missed.tolist() == [False, True]  # the first would be found with the right category


def test_a_category_with_missed_objects_only_has_all_its_ap_lost_by_them(tmp_path):
    table = table_of(tmp_path, made_content([(1, 1, BOX), (1, 2, AWAY)]), [(1, 1, BOX, 0.9)])
    by_category, _ = ap_lost(table, find_errors(table))
    np.testing.assert_allclose(by_category[ERROR_TYPES.index("missed")][:2], [0, 100])


@pytest.mark.parametrize("seed", range(4))
def test_confusion_counts_costs_and_opportunities_are_those_of_loops(tmp_path, seed):
    content, results = random_case(seed, objects=40)
    table = table_of(tmp_path, content, results)
    found = confused_pairs(table, find_errors(table), np.full(table.num_categories, 0.5))
    ids = table.truth.category_ids
    expected = reference.confusion(content, results)
    pairs = zip(ids[found["detected"]].tolist(), ids[found["annotated"]].tolist())
    rows = dict(zip(pairs, zip(found["count"], found["opportunities"], found["ap_lost"])))
    assert set(rows) == set(expected)
    for pair, values in expected.items():
        assert rows[pair] == pytest.approx(values, abs=1e-9)
    np.testing.assert_allclose(found["rate"], 100 * found["count"] / found["opportunities"])
    assert (np.diff(found["ap_lost"]) <= 0).all()
    assert (found["above_threshold"] <= found["count"]).all() and found["above_threshold"].sum() > 0


def test_nothing_is_confused_without_detections(tmp_path):
    table = table_of(tmp_path, made_content([(1, 1, BOX)]), [])
    errors = find_errors(table)
    assert not len(confused_pairs(table, errors, np.zeros(4))["count"])
    by_category, _ = ap_lost(table, errors)
    assert by_category[ERROR_TYPES.index("missed"), 0] == 100 and errors.missed.all()
