import math

import numpy as np
import pytest
from PIL import Image

from balanced_lvis.experiments.comparison_report import (
    BOX_COLUMNS,
    MASK_COLUMNS,
    METRICS,
    binned_ap,
    comparison_page,
    frequency_bins,
    paper_table,
    plot_ap_by_bin,
    seeds_table,
    statistics_table,
)
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
    header, _, first, second = cells(seeds_table(table, {"a": "Method A", "b": "B"}, MASK_COLUMNS))
    assert header == ["Method", "AP mask", "APf", "APc", "APr", "AP box"]
    assert first == ["Method A", "1.5 ± 0.7", "1.5 ± 0.7", "1.5 ± 0.7", "–", "10.0 ± 0.0"]
    assert second == ["B", "5.0", "5.0", "5.0", "–", "6.0"]
    header, _, _, second = cells(seeds_table(table, {"a": "Method A", "b": "B"}, BOX_COLUMNS))
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
    page = comparison_page(statistics_table({"a": [results(5.0, 6.0)]}), {"a": "Mine"}, "Title", "Made by me")
    assert page.startswith("# Title\n") and page.endswith("\nMade by me\n")
    measured, papers = page.split("## For comparison: results of the paper, on LVIS-1.0")
    assert "| Mine" in measured and "25.1" not in measured
    assert "Not measured here" in papers and "| Mine" not in papers


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
