"""Outcomes, the choice of examples, crops and curves."""

import base64
import io
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_util

from balanced_lvis.analysis import Options, analyze_detections
from balanced_lvis.analysis.model import ConfusedPair, Interval
from balanced_lvis.report.curves import training_curves
from balanced_lvis.report.drawing import Artist, Drawn
from balanced_lvis.report.examples import (
    FalseView,
    ImageView,
    ObjectView,
    category_examples,
    changes,
    in_rounds,
    worst_and_best_images,
)
from balanced_lvis.report.numbers import most_frequent
from balanced_lvis.report.outcomes import outcomes_of
from balanced_lvis.report.page import _environment, number, signed, verdict
from balanced_lvis.report.photos import Photos
from balanced_lvis.report.views import Mark, Window, draw_view, outline, window_around
from tests.analysis.made import random_case
from tests.evaluation.made import lvis_of, stored


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """Content, results, the analysis of boxes, and outcomes."""
    content, results = random_case(seed=3, objects=40, detections=160)
    detections = stored(tmp_path_factory.mktemp("store"), results)
    analysis, matches = analyze_detections(lvis_of(content), detections, ("bbox",), Options(samples=0))
    categories = analysis.tasks["bbox"].categories
    return content, results, categories, outcomes_of(matches["bbox"], categories)


def test_outcomes_agree_with_the_operating_points_of_the_analysis(case):
    _, _, categories, outcomes = case
    shown = outcomes.shown
    for k, category in enumerate(categories):
        own = shown & (outcomes.categories == k)
        assert (own & outcomes.true).sum() == category.best_f1.true
        assert (own & ~outcomes.true).sum() == category.best_f1.false
        found = outcomes.found() & (outcomes.object_categories == k)
        assert found.sum() == category.best_f1.true
        assert ((outcomes.errors >= 0) & (outcomes.categories == k)).sum() == sum(
            count for kind, count in category.errors.items() if kind != "missed"
        )


def test_counts_of_images_add_up(case):
    content, _, _, outcomes = case
    counts = outcomes.image_counts(len(content["images"]))
    objects = np.bincount([a["image_id"] - 1 for a in content["annotations"]], minlength=len(content["images"]))
    np.testing.assert_array_equal(counts.true + counts.missed, objects)
    f1 = counts.f1()
    for i, (true, false, missed) in enumerate(zip(counts.true, counts.false, counts.missed)):
        total = 2 * true + false + missed
        assert f1[i] == 2 * true / total if total else np.isnan(f1[i])


def test_worst_and_best_images_are_distinct_and_ordered(case):
    content, _, _, outcomes = case
    exists = np.ones(len(content["images"]), bool)
    exists[0] = False
    worst, best = worst_and_best_images(outcomes, exists)
    f1 = outcomes.image_counts(len(exists)).f1()
    assert 0 not in (*worst, *best) and not set(worst) & set(best)
    assert list(f1[worst]) == sorted(f1[worst]) and list(f1[best]) == sorted(f1[best], reverse=True)
    assert max(f1[worst]) <= min(f1[best])


def test_examples_of_a_category_have_every_kind(case):
    content, _, categories, outcomes = case
    exists = np.ones(len(content["images"]), bool)
    examples = category_examples([outcomes], exists, len(categories))
    found = outcomes.found()
    for k, own in enumerate(examples):
        objects = [view.object for view in own.objects]
        members = np.flatnonzero(outcomes.object_categories == k)
        assert set(objects) <= set(members.tolist()) and len(objects) == min(8, len(members))
        assert {bool(found[index]) for index in objects} == {bool(value) for value in found[members]}
        assert all(outcomes.categories[view.detection] == k and not outcomes.true[view.detection] for view in own.false)
        scores = [outcomes.scores[view.detection] for view in own.false]
        assert scores == sorted(scores, reverse=True)
    none = category_examples([outcomes], ~exists, len(categories))
    assert not any(own.objects or own.false for own in none)


def test_rounds_take_one_example_of_each_category():
    class Own:
        def __init__(self, *requests):
            self.requests = requests

        def in_order(self):
            return list(self.requests)

    a, b, c = ObjectView(1), FalseView(0, 2), ObjectView(3)
    images = {a: 9, b: 1, c: 2}
    assert list(in_rounds([Own(a, b), Own(c)], images.__getitem__)) == [c, a, b]


def test_changes_are_sorted_and_without_unknown_ones():
    first, second = np.array([10.0, 20, np.nan, 5, 7]), np.array([30.0, 10, 4, np.nan, 7])
    (change,) = changes([first, second])
    assert (change.run, change.better, change.worse) == (1, [0], [1])


def test_kinds_of_requests_are_different_keys():
    drawn = Drawn(places={ObjectView(1): 0})
    assert drawn.indices([ImageView(1), ObjectView(1)]) == [0]


@pytest.mark.parametrize("box", [(0, 0, 10, 10), (95, 50, 5, 10), (0, 0, 100, 60), (40, 30, 1, 1)])
def test_a_window_has_its_boxes_and_is_inside_the_image(box):
    window = window_around([box], height=60, width=100)
    x, y, w, h = box
    assert 0 <= window.left <= x and x + w <= window.left + window.width <= 100
    assert 0 <= window.top <= y and y + h <= window.top + window.height <= 60


def test_an_outline_covers_the_mask():
    mask = np.zeros((60, 80), np.uint8)
    mask[10:40, 20:60] = 1
    mask[20:30, 30:40] = 0  # a hole
    window = Window(10, 5, 60, 50)
    path = outline(mask, window, (240, 200))
    assert path.count("M") == path.count("Z") == 2
    numbers = np.array(path.replace("M", " ").replace("Z", " ").split(), int).reshape(-1, 2)
    outer = numbers[(numbers[:, 0] < 75) | (numbers[:, 0] > 125) | (numbers[:, 1] < 55) | (numbers[:, 1] > 105)]
    np.testing.assert_allclose(outer.min(axis=0), [(20 - 10) * 4, (10 - 5) * 4], atol=3)
    np.testing.assert_allclose(outer.max(axis=0), [(60 - 10) * 4, (40 - 5) * 4], atol=3)
    assert outline(np.zeros_like(mask), window, (240, 200)) == ""


def test_a_view_is_small_and_in_units_of_the_window():
    pixels = np.random.default_rng(0).integers(0, 255, (300, 400, 3), np.uint8)
    mask = np.zeros((300, 400), np.uint8, order="F")
    mask[100:200, 100:200] = 1
    mark = Mark(0, 5, 0.51239, True, (100, 100, 100, 100), mask_util.encode(mask))
    view = draw_view(pixels, Window(50, 50, 200, 200), [mark], 160, 320)
    assert view["size"] == [320, 320] and view["src"].startswith("data:image/webp;base64,")
    (drawn,) = view["marks"]
    assert drawn["b"] == [80, 80, 160, 160] and drawn["s"] == 0.5124 and drawn["t"] == 1 and drawn["c"] == 5
    image = Image.open(io.BytesIO(base64.b64decode(view["src"].partition(",")[2])))
    assert image.size == (160, 160) and image.format == "WEBP"


def test_curves_are_thinned_and_end_with_the_last_iteration(tmp_path):
    (tmp_path / "inference").mkdir()
    results = tmp_path / "inference" / "lvis_instances_results.json"
    (tmp_path / "config.yaml").write_text("")
    lines = [{"iteration": i, "total_loss": 1 / (i + 1), "time": 3, "lr": 0.1} for i in range(1203)]
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    (tmp_path / "metrics.json").write_text(f'{text}{{"iteration": 1203, "bbox/AP": NaN}}\nno json\n')
    curves = training_curves(str(results))
    assert list(curves) == ["total_loss", "lr"]
    xs = curves["total_loss"]["x"]
    assert (
        300 < len(xs) <= 500 and xs[-1] == 1202 and curves["total_loss"]["y"][-1] == pytest.approx(1 / 1203, rel=1e-4)
    )
    assert training_curves(str(tmp_path / "other.json")) == {}


def test_total_losses_of_training_and_validation_come_first(tmp_path):
    (tmp_path / "inference").mkdir()
    (tmp_path / "config.yaml").write_text("")
    names = ["a/validation/loss_x", "a/validation/total_loss", "loss_x", "lr", "total_loss", "validation/total_loss"]
    (tmp_path / "metrics.json").write_text(json.dumps({"iteration": 1, **dict.fromkeys(names, 0.5)}) + "\n")
    found = list(training_curves(str(tmp_path / "inference" / "lvis_instances_results.json")))
    assert found == [names[4], names[1], names[5], names[2], names[0], names[3]]


def test_images_without_a_path_are_a_notice(tmp_path):
    record = {"id": 7, "height": 4, "width": 4}
    photos = Photos(lvis_of({"images": [record], "annotations": [], "categories": []}), [7], tmp_path)
    assert "Image 7 has neither file_name nor coco_url; add one" in photos.problem and not photos.any


def test_verdicts_and_signs():
    def interval(low, high):
        return Interval((low + high) / 2, low, high, 1.0, 0.0)

    assert [verdict(interval(*ends)) for ends in ((1, 2), (-2, -1), (-1, 2), (np.nan, np.nan))] == [
        "better", "worse", "same", "unknown",
    ]  # fmt: skip
    values = (1.25, -0.31, 0.0, 0.04, -0.04, np.nan)
    assert [signed(value) for value in values] == ["+1.2", "−0.3", "0.0", "0.0", "0.0", "–"]
    assert [number(value) for value in values] == ["1.2", "-0.3", "0.0", "0.0", "0.0", "–"]


@pytest.mark.parametrize(
    "low, high, text",
    [
        (0.2, 0.8, "B has a higher mask APr than A: +0.5 (+0.2 to +0.8)."),
        (-0.8, -0.2, "B has a lower mask APr than A: −0.5 (−0.8 to −0.2)."),
        (
            -0.1,
            0.3,
            "B and A have similar mask APr: +0.1 (−0.1 to +0.3); these images do not show which one is better.",
        ),
        (np.nan, np.nan, "B minus A, mask APr: +1.0."),
    ],
)
def test_headlines_are_sentences_without_an_unknown_verdict(low, high, text):
    value = 1.0 if np.isnan(low) else (low + high) / 2
    line = {"run": "B", "metric": "APr", "difference": Interval(value, low, high, 1.0, 0.0)}
    found = _environment().get_template("macros.html").module.headline(line, "A", "Mask")
    assert " ".join(re.sub(r"<.*?>", "", found).split()) == text


def test_frequent_confusions_are_kept_for_each_category():
    rng = np.random.default_rng(0)
    pairs = [
        ConfusedPair(a, b, int(rng.integers(1, 50)), 0, 9, 1.0, 0.0) for a in range(20) for b in range(20) if a != b
    ]
    kept = most_frequent(pairs)
    assert len(kept) < len(pairs) / 2
    for k in range(20):
        for role in ("detected", "annotated"):
            counts = sorted((pair.count for pair in pairs if getattr(pair, role) == k), reverse=True)
            assert [pair.count for pair in kept if getattr(pair, role) == k][:5] == counts[:5]


def test_the_last_views_are_left_out():
    drawn = Drawn()
    for index in range(4):
        drawn.add(ObjectView(index), {"view": index}, 10)
    drawn.remove_last(11)
    assert drawn.indices(map(ObjectView, range(4))) == [0, 1]
    assert (drawn.left_out, drawn.sizes, drawn.views) == (2, [10, 10], [{"view": 0}, {"view": 1}])
    drawn.remove_last(100)
    assert (drawn.left_out, drawn.views, drawn.places) == (4, [], {})


def test_images_that_can_not_be_read_are_not_left_out_because_of_the_size():
    class OneSize(Artist):
        def __init__(self, unreadable):
            self._photos = SimpleNamespace(exists=lambda image: image != unreadable)

        def view(self, request):
            return {}

    drawn = Drawn()
    OneSize(unreadable=2).draw(map(ImageView, range(4)), drawn, limit=6)
    assert list(drawn.places) == [ImageView(0)] and drawn.left_out == 2
