import math

import numpy as np
import pytest
from PIL import Image

from balanced_lvis.experiments.comparison_plots import (
    MAX_SHOWN,
    binned_ap,
    frequency_bins,
    plot_ap_by_bin,
    plot_rare_ap,
    shown_in_bins,
)
from balanced_lvis.experiments.comparison_report import (
    BOX_COLUMNS,
    DIFFERENCE_COLUMNS,
    MASK_COLUMNS,
    METRICS,
    add_differences,
    comparison_page,
    difference_table,
    grouped,
    paper_table,
    seeds_table,
    statistics_table,
)
from balanced_lvis.experiments.methods import END_TO_END, SECOND_STAGE, TEST_TIME
from balanced_lvis.experiments.published_results import PAPER_COLUMNS, PAPER_TABLE_2


def results(mask, box, rare=None):
    return {
        "segm": {"AP": mask, "APr": rare, "APc": mask, "APf": mask},
        "bbox": {"AP": box, "APr": box, "APc": box + 1, "APf": box},
    }


def cells(table):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def test_statistics_are_the_mean_and_the_sample_standard_deviation():
    table = statistics_table({"a": [results(1.0, 10.0), results(2.0, 10.0, math.nan), results(6.0, 13.0, 4.0)]})
    assert list(table) == ["a"] and list(table["a"]) == list(METRICS)
    # Deviations from the mean 3: -2, -1, 3; (4 + 1 + 9) / 2 = 7.
    assert table["a"]["AP"] == {"mean": 3.0, "std": pytest.approx(math.sqrt(7)), "runs": [1.0, 2.0, 6.0]}
    # Deviations from 11: -1, -1, 2; 6 / 2 = 3.
    assert table["a"]["AP_box"] == {"mean": 11.0, "std": pytest.approx(math.sqrt(3)), "runs": [10.0, 10.0, 13.0]}
    assert table["a"]["AP_box_c"]["mean"] == 12.0
    assert table["a"]["APr"] == {"mean": 4.0, "std": None, "runs": [None, None, 4.0]}


def test_one_seed_has_no_deviation():
    found = statistics_table({"a": [results(5.0, 6.0)]})["a"]
    assert found["AP"] == {"mean": 5.0, "std": None, "runs": [5.0]}
    assert found["APr"] == {"mean": None, "std": None, "runs": [None]}


def test_the_table_has_the_columns_of_the_papers():
    table = statistics_table({"a": [results(1.0, 10.0), results(2.0, 10.0)], "b": [results(5.0, 6.0)]})
    groups = {"a": END_TO_END, "b": END_TO_END}
    header, _, second, first = cells(seeds_table(table, {"a": "Method A", "b": "B"}, groups, MASK_COLUMNS))
    assert header == ["Method", "AP mask", "APf", "APc", "APr", "AP box"]
    assert first == ["Method A", "1.5 ± 0.7", "1.5 ± 0.7", "1.5 ± 0.7", "–", "10.0 ± 0.0"]
    assert second == ["B", "5.0", "5.0", "5.0", "–", "6.0"]
    header, _, _, second = cells(seeds_table(table, {"a": "Method A", "b": "B"}, groups, BOX_COLUMNS))
    assert header == ["Method", "AP", "APf", "APc", "APr"]
    assert second == ["B", "6.0", "6.0", "7.0", "6.0"]


def test_the_papers_figures_are_there_in_the_same_shape():
    assert [len(figures) for figures in PAPER_TABLE_2.values()] == [5, 5, 1]
    assert all(len(row) == len(PAPER_COLUMNS) for figures in PAPER_TABLE_2.values() for row in figures.values())
    header, _, *rows = cells(paper_table(PAPER_TABLE_2["ResNet-50, val"]))
    assert header == ["Method", "AP mask", "APf", "APc", "APr", "AP box"]
    assert rows[-1] == ["Balanced Sigmoid", "25.1", "29.3", "24.0", "18.3", "26.7"]
    assert cells(paper_table(PAPER_TABLE_2["ResNet-101, test-dev"]))[-1][-1] == "–"


def test_the_page_says_whose_figures_are_whose():
    table = statistics_table({"a": [results(5.0, 6.0)]})
    page = comparison_page(table, {"a": "Mine"}, {"a": END_TO_END}, "Title", "Made by \udcff")
    assert page.startswith("# Title\n") and page.endswith("\nMade by \\udcff\n")
    measured, papers = page.split("## For comparison: results of the paper, on LVIS-1.0")
    assert "| Mine" in measured and "25.1" not in measured
    assert "Not measured here" in papers and "| Mine" not in papers
    assert "Differences" not in page


THREE = {
    "rfs": [results(1.0, 10.0, 2.0), results(2.0, 20.0, 4.0)],
    "a": [results(3.0, 10.0, 1.0), results(5.0, 20.0, 5.0)],
    "b": [results(4.0, 9.0, None), results(1.0, 22.0, 9.0)],
}
GROUPS_OF_THREE = {"rfs": END_TO_END, "a": SECOND_STAGE, "b": END_TO_END}
TITLES = {"rfs": "RFS", "a": "A (stage 2 of RFS)", "b": "B"}


def test_differences_are_those_of_the_same_seed():
    table = add_differences(statistics_table(THREE), "rfs")
    assert "difference" not in table["rfs"]["AP"]
    # 3 - 1 and 5 - 2: the mean 2.5, the deviations ±0.5, so (0.25 + 0.25) / 1.
    assert table["a"]["AP"]["difference"] == {
        "mean": 2.5,
        "std": pytest.approx(0.5**0.5),
        "runs": [2.0, 3.0],
        "ahead": 2,
    }
    assert table["a"]["AP"]["runs"] == [3.0, 5.0] and table["a"]["AP"]["mean"] == 4.0
    assert table["a"]["AP_box"]["difference"] == {"mean": 0.0, "std": 0.0, "runs": [0.0, 0.0], "ahead": 0}
    assert table["b"]["APr"]["difference"] == {"mean": 5.0, "std": None, "runs": [None, 5.0], "ahead": 1}
    assert add_differences(statistics_table({"a": THREE["a"]}), "rfs") == statistics_table({"a": THREE["a"]})


def test_the_table_of_differences_counts_the_seeds_ahead():
    table = add_differences(statistics_table(THREE), "rfs")
    header, _, *rows = cells(difference_table(table, TITLES, GROUPS_OF_THREE, DIFFERENCE_COLUMNS))
    assert header == ["Method", "AP mask", "APr mask", "AP box", "APr box"]
    assert rows == [
        ["**End to end**", "", "", "", ""],
        ["B", "+1.0 ± 2.8 (1/2)", "+5.0", "+0.5 ± 2.1 (1/2)", "+0.5 ± 2.1 (1/2)"],
        ["**Second stage**", "", "", "", ""],
        ["A (stage 2 of RFS)", "+2.5 ± 0.7 (2/2)", "+0.0 ± 1.4 (1/2)", "+0.0 ± 0.0 (0/2)", "+0.0 ± 0.0 (0/2)"],
    ]
    page = comparison_page(table, TITLES, GROUPS_OF_THREE, "Title", "Made by me")
    assert "## Differences from RFS, seed by seed" in page


def test_rows_are_grouped_and_sorted_by_the_first_column():
    table = statistics_table(THREE)
    rows = [row[0] for row in cells(seeds_table(table, TITLES, GROUPS_OF_THREE, MASK_COLUMNS))[2:]]
    assert rows == ["**End to end**", "B", "RFS", "**Second stage**", "A (stage 2 of RFS)"]
    table["b"]["AP"]["mean"] = None
    assert grouped(table, GROUPS_OF_THREE, "AP") == {END_TO_END: ["rfs", "b"], SECOND_STAGE: ["a"]}


def test_bins_are_by_training_images_and_empty_ones_are_left_out():
    counts = [1, 3, 4, 10, 11, 101, 5000, 0]
    found = {label: np.flatnonzero(inside).tolist() for label, inside in frequency_bins(counts)}
    assert found == {"1–3": [0, 1], "4–10": [2, 3], "11–30": [4], "101–300": [5], ">300": [6]}


def test_binned_ap_is_the_mean_over_categories_with_ground_truth():
    rows = [
        {"image_count": 2, "bbox": 10.0},
        {"image_count": 3, "bbox": 20.0},
        {"image_count": 1, "bbox": None},
        {"image_count": 301, "bbox": 50.0},
    ]
    assert binned_ap(rows, "bbox") == {"1–3": (15.0, 2), ">300": (50.0, 1)}


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_plot_is_a_picture_of_ten_methods(tmp_path, seeds):
    rows = [{"image_count": 4**i, "segm": 10.0 * i} for i in range(6)]
    plot_ap_by_bin({f"method {i}": [rows] * seeds for i in range(10)}, tmp_path / "plot.png", "segm", {"method 3"})
    assert min(Image.open(tmp_path / "plot.png").size) > 500


def many(count, seeds):
    """A table of ``count`` methods with their groups: the later, the better."""
    keys = ["sigmoid", "rfs", *(f"method {i}" for i in range(count - 2))]
    found = {key: [results(float(i), 2.0 * i + s, 3.0 * i) for s in range(seeds)] for i, key in enumerate(keys)}
    groups = [END_TO_END] * 10 + [SECOND_STAGE] * 10 + [TEST_TIME] * 10
    return statistics_table(found), dict(zip(keys, groups))


def test_few_methods_are_all_shown_and_of_many_the_best_of_each_group():
    table, groups = many(MAX_SHOWN, 1)
    assert shown_in_bins(table, groups) == list(table)
    table, groups = many(30, 1)
    best = ["method 6", "method 7", "method 16", "method 17", "method 26", "method 27"]
    assert shown_in_bins(table, groups) == ["sigmoid", "rfs", *best]
    for found in table.values():  # a model without masks
        found["AP"]["mean"] = None
    assert shown_in_bins(table, groups) == ["sigmoid", "rfs", *best]


@pytest.mark.parametrize("seeds", [1, 3])
def test_rare_ap_against_ap_is_a_picture_of_thirty_methods(tmp_path, seeds):
    table, groups = many(30, seeds)
    table["method 3"]["AP"]["mean"] = table["method 3"]["APr"]["mean"] = None
    plot_rare_ap(table, {key: key for key in table}, groups, tmp_path / "plot.png", "segm")
    assert min(Image.open(tmp_path / "plot.png").size) > 700
