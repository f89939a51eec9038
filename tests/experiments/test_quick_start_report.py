import math

import pytest
from PIL import Image

from balanced_lvis.experiments import quick_start_report as report
from balanced_lvis.experiments.example_images import _best, draw_comparison, short_label
from balanced_lvis.experiments.quick_start_report import comparison_table, plot_ap_by_frequency
from balanced_lvis.utils.io import write_json


def metrics(ap, rare):
    return {"AP": ap, "APr": rare, "APc": 20.0, "APf": 30.04}


def test_the_table_shows_values_and_the_difference_of_two_methods():
    table = comparison_table(
        {
            "sigmoid": [{"bbox": metrics(10.0, 1.0), "segm": metrics(9.0, None)}],
            "balanced": [{"bbox": metrics(12.5, 6.0), "segm": metrics(8.0, math.nan)}],
        }
    )
    header, rule, first, second, difference = (
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()
    )
    assert header == ["method", *(f"{t} {c}" for t in ("box", "mask") for c in ("AP", "APr", "APc", "APf"))]
    assert set("".join(rule)) <= {"-", ":"}
    assert first == ["sigmoid", "10.0", "1.0", "20.0", "30.0", "9.0", "–", "20.0", "30.0"]
    assert second[:3] == ["balanced", "12.5", "6.0"]
    assert difference == ["difference", "+2.5", "+5.0", "+0.0", "+0.0", "-1.0", "–", "+0.0", "+0.0"]
    assert len({len(line) for line in table.splitlines()}) == 1


def test_a_model_without_masks_has_no_mask_figures():
    table = comparison_table({"boxes": [{"bbox": {"AP": 20.0}}]})
    assert table.splitlines()[-1].count("–") == 7 and "20.0" in table


def test_three_methods_have_no_difference():
    one = [{"bbox": metrics(1, 1), "segm": metrics(1, 1)}]
    assert len(comparison_table({"a": one, "b": one, "c": one}).splitlines()) == 5


def test_with_seeds_the_table_has_mean_and_deviation_and_how_often_the_second_is_ahead():
    def seeds(*values):
        return [{"bbox": {"AP": value, "APr": rare}, "segm": {"AP": 5.0}} for value, rare in values]

    one, other = seeds((10, 1.0), (12, None), (14, 4.0)), seeds((11, 3.0), (11, 5.0), (17, 3.0))
    lines = comparison_table({"one": one, "other": other}, ("AP", "APr")).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[2] == ["one", "12.0 ± 2.0", "2.5 ± 2.1", "5.0 ± 0.0", "–"]
    assert cells[3] == ["other", "13.0 ± 3.5", "3.7 ± 1.2", "5.0 ± 0.0", "–"]
    assert cells[4] == ["difference", "+1.0", "+0.5", "+0.0", "–"]  # APr: of the seeds that both have
    assert cells[5] == ["seeds ahead", "2 of 3", "1 of 2", "0 of 3", "–"]


def test_the_ap_of_a_category_is_averaged_over_the_seeds():
    def rows(*values):
        return [{"id": i, "image_count": 9, "bbox": value, "segm": None} for i, value in enumerate(values)]

    found = report.mean_per_category([rows(10.0, 20.0, None), rows(30.0, None, None)])
    assert [row["bbox"] for row in found] == [20.0, None, None]
    assert [row["segm"] for row in found] == [None] * 3 and [row["id"] for row in found] == [0, 1, 2]


def test_the_plot_is_a_picture_with_every_category(tmp_path):
    rows = [
        {"id": i, "frequency": "rcf"[i % 3], "image_count": 10**i, "bbox": 10.0 * i, "segm": None if i == 2 else 5.0}
        for i in range(4)
    ]
    for task in ("bbox", "segm"):
        plot_ap_by_frequency({"a": rows, "b": rows}, tmp_path / f"{task}.png", task)
        assert Image.open(tmp_path / f"{task}.png").size[0] > 500


def test_points_are_at_their_number_of_images_and_the_legend_covers_none(tmp_path, monkeypatch):
    rows = [{"frequency": "rcf"[i % 3], "image_count": 3 + 40 * i, "segm": 10.0 * i} for i in range(5)]
    monkeypatch.setattr(report.plt, "close", lambda figure: None)
    report.plot_ap_by_frequency({"a": rows, "b": rows}, tmp_path / "ap.png")
    figure = report.plt.gcf()
    monkeypatch.undo()
    (axes,), (legend,) = figure.axes, figure.legends
    drawn = [points.get_offsets()[:, 0].tolist() for points in axes.collections if points.get_label() in ("a", "b")]
    report.plt.close(figure)
    assert drawn == [[row["image_count"] for row in rows]] * 2
    assert axes.get_legend() is None
    assert legend.get_window_extent().y1 <= axes.get_window_extent().y0


def test_best_detections_are_the_highest_scored_that_do_not_overlap():
    detections = [
        {"bbox": [0, 0, 10, 10], "score": 0.5, "category_id": 1},
        {"bbox": [1, 0, 10, 10], "score": 0.9, "category_id": 2},
        {"bbox": [50, 50, 10, 10], "score": 0.1, "category_id": 3},
    ]
    assert [d["category_id"] for d in _best(detections, 5)] == [2, 3]
    assert [d["category_id"] for d in _best(detections, 1)] == [2]
    assert _best([], 3) == []


def test_labels_are_short():
    assert short_label({"name": "latin_small_letter_a", "synonyms": ["latin_small_letter_a", "a"]}) == "a"
    assert short_label({"name": "dog"}) == "dog"


def test_pictures_show_truth_and_predictions(tmp_path):
    (tmp_path / "train").mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "train" / "1.png")
    polygon = [[5, 5, 20, 5, 20, 20, 5, 20]]
    record = {"image_id": 1, "category_id": 1, "bbox": [5, 5, 15, 15], "segmentation": polygon}
    content = {
        "images": [{"id": 1, "coco_url": "http://x/train/1.png", "width": 40, "height": 30}],
        "annotations": [record],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
    }
    write_json(tmp_path / "gt.json", content)
    wrong = {**record, "category_id": 2, "score": 0.5}
    path = tmp_path / "out.png"
    draw_comparison(tmp_path / "gt.json", tmp_path, {"m": [wrong], "nothing": []}, [1], path)
    width, height = Image.open(path).size
    assert width == pytest.approx(3 * height, rel=0.1)
