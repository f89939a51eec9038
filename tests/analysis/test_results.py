"""The whole analysis: its sources, its files, its command and its Python interface."""

import csv
import dataclasses
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

from balanced_lvis.analysis import (
    Analysis,
    Options,
    analyze,
    analyze_detections,
    analyze_results,
    compare,
    compare_results,
    export,
    summary,
    thresholds_of,
)
from balanced_lvis.analysis.error_types import ERROR_TYPES
from balanced_lvis.analysis.sources import config_of_run
from balanced_lvis.data.registered_files import evaluation_file_of
from balanced_lvis.evaluation import Detections, evaluate_on_lvis
from balanced_lvis.evaluation.annotation_loader import load_annotations
from balanced_lvis.utils.errors import InputError
from tests.analysis.made import random_case
from tests.common import load_tool
from tests.evaluation.made import box_mask, lvis_of, made_content, stored

BOX = [4, 4, 10, 8]
QUICK = Options(samples=20)


@pytest.fixture
def case(tmp_path):
    """Paths of an annotation file, of stored detections and of a results file with the same detections."""
    content, results = random_case(0)
    annotations = tmp_path / "annotations.json"
    annotations.write_text(json.dumps(content))
    detections = stored(tmp_path / "store", results)
    detections.save_json(tmp_path / "results.json")
    return annotations, tmp_path / "store", tmp_path / "results.json"


def without_source(analysis: Analysis) -> str:
    """As text, in which NaN equals itself."""
    content = analysis.to_json()
    content.pop("source")
    return json.dumps(content)


def test_stored_detections_a_results_file_and_a_run_are_analysed_alike(case, tmp_path):
    annotations, store, results = case
    run = tmp_path / "run" / "inference"
    run.mkdir(parents=True)
    results.rename(run / "lvis_instances_results.json")
    sources = (store, run / "lvis_instances_results.json", run.parent)
    found = [analyze_results(source, annotations, QUICK) for source in sources]
    assert {without_source(analysis) for analysis in found} == {without_source(found[0])}
    assert found[2].source.results == str(run / "lvis_instances_results.json")
    assert list(found[0].tasks) == ["bbox", "segm"]


def test_the_numbers_of_the_parts_belong_together(case):
    annotations, store, _ = case
    analysis = analyze_results(store, annotations, QUICK)
    content = json.loads(annotations.read_text())
    for task, result in analysis.tasks.items():
        records = [
            {"image_id": i, "category_id": c, "bbox": box, "score": s, "segmentation": box_mask(box)}
            for i, c, box, s in random_case(0)[1]
        ]
        metrics, per_category = evaluate_on_lvis(lvis_of(content), records, task)
        np.testing.assert_array_equal(list(result.metrics.values()), list(metrics.values()))
        assert {c.id: c.ap for c in result.categories} == per_category
        assert np.mean([c.ap50 for c in result.categories]) == pytest.approx(metrics["AP50"])
        assert np.mean([c.ap75 for c in result.categories]) == pytest.approx(metrics["AP75"])
        assert np.mean([c.ar for c in result.categories]) == pytest.approx(metrics["AR@300"])
        assert result.fixed.metrics["AP"] == metrics["AP"]  # no limit is reached
        assert result.fixed.categories_below_limit == 4 + 1
        if task == "segm":
            assert np.mean([c.ap_boundary for c in result.categories]) == pytest.approx(result.boundary["AP"])
        for name in ERROR_TYPES:
            lost = [c.ap_lost[name] for c in result.categories]
            assert result.errors.ap_lost[name]["all"] == pytest.approx(np.mean(lost))
            counts = result.errors.counts[name]
            assert counts["all"] == sum(c.errors[name] for c in result.categories)
            assert counts["all"] == counts["r"] + counts["c"] + counts["f"]
            assert counts["all"] == counts["small"] + counts["medium"] + counts["large"]
        interval = result.bootstrap.metrics["APr"]
        assert interval.value == metrics["APr"] and interval.low < interval.high
        assert result.calibration["all"].laece == pytest.approx(np.mean([c.laece for c in result.categories]))
        assert sum(b.count for b in result.calibration["all"].reliability) == sum(
            c.detections for c in result.categories
        )
    assert sum(c.objects for c in analysis.tasks["bbox"].categories) == len(content["annotations"])


def test_an_analysis_is_read_as_it_was_written(case, tmp_path):
    annotations, store, _ = case
    analysis = analyze_results(store, annotations, QUICK, output=tmp_path / "out")
    read = Analysis.load(tmp_path / "out" / "analysis.json")
    assert repr(read) == repr(analysis)  # NaN, which is null in JSON, included
    assert "NaN" not in (tmp_path / "out" / "analysis.json").read_text()
    for content in ("[]", "{", '{"format": 1}', '{"format": 2}'):
        (tmp_path / "bad.json").write_text(content)
        with pytest.raises(InputError, match=r"(format 2; write it|not valid JSON|not a complete analysis)"):
            Analysis.load(tmp_path / "bad.json")
    with pytest.raises(InputError, match="can't be read"):
        Analysis.load(tmp_path / "nowhere.json")


def test_files_have_a_row_per_category_and_an_entry_per_detection(case, tmp_path):
    annotations, store, _ = case
    analysis = analyze_results(store, annotations, QUICK, output=tmp_path / "out")
    for task, result in analysis.tasks.items():
        with open(tmp_path / "out" / f"per_category_{task}.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        assert [float(row["ap"]) for row in rows] == [c.ap for c in result.categories]
        assert [float(row["best_f1_threshold"]) for row in rows] == [c.best_f1.threshold for c in result.categories]
        assert [int(row["errors_missed"]) for row in rows] == [c.errors["missed"] for c in result.categories]
        with open(tmp_path / "out" / f"confusion_{task}.csv", newline="") as file:
            assert [int(row["count"]) for row in csv.DictReader(file)] == [p.count for p in result.confusion]
        matches = np.load(tmp_path / "out" / f"matches_{task}.npz")
        counts = np.bincount(matches["error"][matches["error"] >= 0], minlength=6)
        assert counts.tolist()[:5] == [result.errors.counts[name]["all"] for name in ERROR_TYPES[:5]]
        assert matches["annotation_missed"].sum() == result.errors.counts["missed"]["all"]
        found = matches["matched_id"] >= 0
        assert (matches["status"][found] == 1).all() and (matches["matched_iou"][found] >= 0.5).all()
        resamples = np.load(tmp_path / "out" / f"bootstrap_{task}.npz")
        assert resamples["AP"].std(ddof=1) == pytest.approx(result.bootstrap.metrics["AP"].standard_error)
    assert json.loads((tmp_path / "out" / "thresholds.json").read_text()) == thresholds_of(analysis)
    assert len(list((tmp_path / "out").iterdir())) == 11


def test_names_of_categories_that_can_not_be_encoded_are_escaped(tmp_path):
    export._write_csv(tmp_path / "names.csv", [{"name": "\ud800", "ap": math.nan}], ["name", "ap"])
    assert (tmp_path / "names.csv").read_text() == "name,ap\n\\ud800,\n"


def test_errors_are_counted_once(case, monkeypatch):
    counted, count = [], analyze._TaskAnalysis._counts
    monkeypatch.setattr(analyze._TaskAnalysis, "_counts", lambda *args: counted.append(args) or count(*args))
    analyze_results(case[1], case[0], Options(samples=0))
    assert len(counted) == 2 * 2  # by category and by size, for boxes and for masks


def test_boxes_only_without_resamples(tmp_path):
    annotations = tmp_path / "annotations.json"
    annotations.write_text(json.dumps(made_content([(1, 1, BOX)])))
    earlier, store = (stored(tmp_path / name, [(1, 1, BOX, 0.5)], with_masks=name == "a") for name in ("a", "b"))
    compare_results(earlier, earlier, annotations, QUICK, output=tmp_path / "out")  # its files don't stay
    (tmp_path / "out" / "notes.txt").touch()
    analysis = analyze_results(store, annotations, Options(samples=0), output=tmp_path / "out")
    assert list(analysis.tasks) == ["bbox"]
    result = analysis.tasks["bbox"]
    assert result.boundary is None and result.bootstrap is None
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {
        "analysis.json", "per_category_bbox.csv", "confusion_bbox.csv", "matches_bbox.npz", "thresholds.json",
        "thresholds_lrp.json", "notes.txt",
    }  # fmt: skip
    assert thresholds_of(analysis) == [
        {"name": "c1", "threshold": 0.5}, *({"name": f"c{c}", "threshold": None} for c in (2, 3, 4)),
    ]  # fmt: skip
    assert math.isnan(result.categories[1].ap)
    assert "Boxes" in summary(analysis) and "Masks" not in summary(analysis)


def test_no_detections_and_no_objects_in_a_group(tmp_path):
    annotations = tmp_path / "annotations.json"
    annotations.write_text(json.dumps(made_content([(1, 1, BOX)])))
    analysis = analyze_results(stored(tmp_path / "store", []), annotations, QUICK, output=tmp_path / "out")
    for result in analysis.tasks.values():
        assert result.metrics["AP"] == 0 and math.isnan(result.metrics["APf"])
        assert result.errors.ap_lost["missed"]["all"] == 100
        assert not result.confusion
    assert "missed" in summary(analysis)
    header = (tmp_path / "out" / "confusion_bbox.csv").read_text().strip().split(",")
    assert header == [
        "detected_name", "annotated_name", "detected", "annotated", "count", "above_threshold", "opportunities",
        "rate", "ap_lost",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["annotations"].clear(), "has no objects"),
        (lambda c: c["annotations"][0].update(ignore=1), "Ignored annotations can't be analysed"),
        (lambda c: c["categories"][0].pop("frequency"), "frequency"),
        (lambda c: c["images"].pop(), r"not in the annotation file"),
    ],
)
def test_what_can_not_be_analysed_is_named(case, change, message):
    annotations, store, _ = case
    content = json.loads(annotations.read_text())
    change(content)
    annotations.write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        analyze_results(store, annotations, QUICK)


@pytest.mark.parametrize(
    "options",
    [Options(score_threshold=2), Options(samples=1), Options(samples=-1), Options(seed=-1), Options(level=95)],
)
def test_invalid_options_are_named_with_their_value(case, options):
    with pytest.raises(InputError, match=r"is (2|1|-1|95); it must be"):
        analyze_results(case[1], case[0], options)


def test_missing_results_are_named_with_the_remedy(case, tmp_path):
    with pytest.raises(InputError, match="doesn't exist; pass a results file"):
        analyze_results(tmp_path / "nowhere", case[0])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no inference/lvis_instances_results.json.*evaluate the run first"):
        analyze_results(tmp_path / "empty", case[0])
    for place in ("inference", "evaluation/inference"):
        (tmp_path / "empty" / place).mkdir(parents=True)
        (tmp_path / "empty" / place / "lvis_instances_results.json").write_text("[]")
    with pytest.raises(InputError, match="several results files; pass one of them"):
        analyze_results(tmp_path / "empty", case[0])


def changed(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["images"][1].pop("neg_category_ids"), r"in its images, image 2: has no 'neg_category_ids'"),
        (lambda c: c["images"][0].update(not_exhaustive_category_ids=None), "not_exhaustive_category_ids is None"),
        (lambda c: c["annotations"][3].pop("area"), r"annotation 4 of image \d+: has no 'area'"),
        (lambda c: c["annotations"][0].pop("bbox"), "annotation 1 of image .* has no 'bbox'"),
        (lambda c: c.pop("categories"), "it has no list 'categories'"),
    ],
)
def test_a_file_that_is_not_in_lvis_format_is_named_with_its_first_wrong_record(case, change, message):
    changed(case[0], change)
    with pytest.raises(InputError, match=rf"Annotations .*json can't be used: .*{message}.*; correct the file, or"):
        analyze_results(case[1], case[0], QUICK)


def test_annotations_that_can_not_be_read_are_named(case, tmp_path):
    with pytest.raises(InputError, match="nowhere.json can't be read: it doesn't exist"):
        analyze_results(case[1], tmp_path / "nowhere.json")
    for content, message in (("{", "are not valid JSON"), ("[]", "of type list")):
        (tmp_path / "bad.json").write_text(content)
        with pytest.raises(InputError, match=message):
            analyze_results(case[1], tmp_path / "bad.json")


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c["annotations"][2].pop("segmentation"),
        lambda c: c.update(info={"num_boxes": 1}),  # a converted file, in which the box is the mask
    ],
)
def test_masks_are_not_analysed_without_masks_of_objects(case, tmp_path, change, package_log):
    annotations, store, results = case
    changed(annotations, change)
    problem = f"1 of 24 annotations of {annotations} have no mask"
    assert list(analyze_results(store, annotations, QUICK).tasks) == ["bbox"]
    assert package_log.text.count(f"{problem}: only boxes are evaluated") == 1
    assert list(compare_results(store, results, annotations, QUICK).tasks) == ["bbox"]
    truth, detections = load_annotations(annotations), Detections(store, range(1, 6))
    assert list(analyze_detections(truth, detections, options=QUICK, annotations=str(annotations))[0].tasks) == ["bbox"]
    (tmp_path / "masks.json").write_text(json.dumps(records_of(results, "bbox")))
    with pytest.raises(InputError, match=f"{problem}, so masks can't be evaluated"):
        analyze_results(tmp_path / "masks.json", annotations, QUICK)


def test_stored_detections_of_more_classes_than_the_file_has_are_rejected(case):
    changed(case[0], lambda c: c.update(categories=c["categories"][:2]))
    with pytest.raises(InputError, match=r"have a class of index 4, but .*json has 2 categories"):
        analyze_results(case[1], case[0], QUICK)


def test_the_hint_needs_several_images_with_the_highest_number_of_detections(case):
    analysis = analyze_results(case[1], case[0], Options(samples=0))
    assert "AP-fixed may be" not in summary(analysis)
    for most, images, shown in ((300, 2, True), (300, 1, False), (12, 5, False)):
        source = dataclasses.replace(analysis.source, most_per_image=most, images_with_most=images)
        assert ("AP-fixed may be" in summary(dataclasses.replace(analysis, source=source))) is shown


def test_only_the_config_of_the_run_that_wrote_the_results_names_the_dataset(tmp_path):
    run = tmp_path / "run"
    (run / "evaluation" / "inference").mkdir(parents=True)
    (run / "config.yaml").touch()
    name = "lvis_instances_results.json"
    for place in ("inference", "evaluation/inference", "inference_lvis_v1_val", "."):
        assert config_of_run(str(run / place / name)) == str(run / "config.yaml")
    assert config_of_run(str(run / "results.json")) is None
    assert config_of_run(str(run / "other" / name)) is None
    (run / "evaluation" / "config.yaml").touch()
    assert config_of_run(str(run / "evaluation" / "inference" / name)) == str(run / "evaluation" / "config.yaml")


# ------------------------------------------------------------------ two results


def records_of(results, *dropped):
    return [{key: value for key, value in r.items() if key not in dropped} for r in json.loads(results.read_text())]


def test_results_are_compared_on_their_common_tasks(case, tmp_path, package_log):
    annotations, store, results = case
    (tmp_path / "boxes.json").write_text(json.dumps(records_of(results, "segmentation")))
    shown = []
    comparison = compare_results(store, tmp_path / "boxes.json", annotations, QUICK, tmp_path / "out", shown.append)
    assert list(comparison.tasks) == ["bbox"] and list(shown[0].tasks) == ["bbox", "segm"]
    assert "Masks of" in package_log.text and "not compared" in package_log.text
    for metric in comparison.tasks["bbox"].values():
        assert (metric.difference.value, metric.difference.low, metric.difference.high) == pytest.approx((0, 0, 0))
        assert metric.first == metric.second
    assert comparison.tasks["bbox"]["AP"].first == shown[0].tasks["bbox"].bootstrap.metrics["AP"]


def test_a_saved_analysis_is_compared_as_its_results(case, tmp_path, monkeypatch):
    annotations, store, results = case
    (tmp_path / "weaker.json").write_text(json.dumps(json.loads(results.read_text())[::2]))
    expected = compare_results(store, tmp_path / "weaker.json", annotations, QUICK)
    analyze_results(tmp_path / "weaker.json", annotations, QUICK, output=tmp_path / "saved")
    with monkeypatch.context() as patch:
        patch.setattr(compare, "resample_detections", None)
        found = compare_results(store, tmp_path / "saved", annotations, QUICK)
    assert repr(found.tasks) == repr(expected.tasks) and found.second == expected.second
    assert expected.tasks["segm"]["AP"].difference.value != 0
    (tmp_path / "saved" / "bootstrap_segm.npz").write_bytes(b"")
    with pytest.raises(InputError, match=r"bootstrap_segm.npz can't be read"):
        compare_results(store, tmp_path / "saved", annotations, QUICK)
    with pytest.raises(InputError, match=r"has 20 resamples with seed 0, but 20 with seed 1 are compared; pass the"):
        compare_results(store, tmp_path / "saved", annotations, dataclasses.replace(QUICK, seed=1))
    changed(annotations, lambda c: c["images"][0].update(neg_category_ids=[]))
    with pytest.raises(InputError, match="is of other annotations"):
        compare_results(store, tmp_path / "saved", annotations, QUICK)


def test_a_saved_analysis_is_not_compared_with_the_files_that_replace_it(case, tmp_path, monkeypatch):
    annotations, store, results = case
    (tmp_path / "weaker.json").write_text(json.dumps(json.loads(results.read_text())[::2]))
    analyze_results(tmp_path / "weaker.json", annotations, QUICK, output=tmp_path / "saved")
    before = (tmp_path / "saved" / "analysis.json").read_bytes()
    (tmp_path / "link").symlink_to("saved")
    expected = compare_results(store, tmp_path / "saved", annotations, QUICK)
    with monkeypatch.context() as patch:
        patch.setattr(compare, "load_annotations", None)  # work
        for output in ("saved", "link", "saved/../saved"):
            with pytest.raises(InputError, match="is that of the saved analysis .*choose another output folder"):
                compare_results(store, tmp_path / "saved", annotations, QUICK, output=tmp_path / output)
    assert (tmp_path / "saved" / "analysis.json").read_bytes() == before

    def replace_saved(analysis):
        analyze_results(store, annotations, QUICK, output=tmp_path / "saved")

    found = compare_results(store, tmp_path / "saved", annotations, QUICK, on_analysis=replace_saved)
    assert repr(found) == repr(expected)


def test_an_interrupted_analysis_is_not_taken_for_a_complete_one(case, tmp_path, monkeypatch):
    annotations, store, _ = case
    saved = tmp_path / "saved"
    analyze_results(store, annotations, QUICK, output=saved)

    def fail(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(export, "write_matches", fail)
        analyze_results(store, annotations, Options(samples=30), output=saved)
    with pytest.raises(InputError, match="no inference/lvis_instances_results.json"):
        compare_results(store, saved, annotations, QUICK)


def test_arrays_of_other_resamples_than_those_of_their_analysis_are_refused(case, tmp_path):
    annotations, store, _ = case
    for name, samples in (("saved", 20), ("other", 30)):
        analyze_results(store, annotations, Options(samples=samples), output=tmp_path / name)
    (tmp_path / "other" / "bootstrap_segm.npz").replace(tmp_path / "saved" / "bootstrap_segm.npz")
    with pytest.raises(InputError, match=r"bootstrap_segm.npz has an array of shape \(30,\), but .* 20 resamples"):
        compare_results(store, tmp_path / "saved", annotations, QUICK)


def test_results_in_a_folder_are_compared_rather_than_an_older_analysis_in_it(case, tmp_path):
    _, _, results = case
    folder = tmp_path / "run" / "inference"
    folder.mkdir(parents=True)
    (folder / "lvis_instances_results.json").write_text(results.read_text())
    (tmp_path / "run" / "analysis.json").write_text("{}")
    assert compare.compared_path(tmp_path / "run") == str(folder / "lvis_instances_results.json")


def test_nothing_is_analysed_if_results_can_not_be_compared(case, tmp_path, monkeypatch):
    annotations, store, results = case
    monkeypatch.setattr(compare, "analyze_detections", None)
    for name, dropped in (("boxes.json", "segmentation"), ("masks.json", "bbox")):
        (tmp_path / name).write_text(json.dumps(records_of(results, dropped)))
    with pytest.raises(InputError, match=r"boxes.json has only boxes and .*masks.json only masks"):
        compare_results(tmp_path / "boxes.json", tmp_path / "masks.json", annotations, QUICK)
    with pytest.raises(InputError, match="nowhere doesn't exist"):
        compare_results(store, tmp_path / "nowhere", annotations, QUICK)
    with pytest.raises(InputError, match="samples is 0; a comparison needs resamples"):
        compare_results(store, store, annotations, Options(samples=0))


# ------------------------------------------------------------------ the command


@pytest.fixture
def command():
    return load_tool("analyze_results").main


def test_the_command_prints_a_summary_and_writes_the_files(case, tmp_path, command, capsys):
    annotations, _, results = case
    words = ["--dataset", str(annotations), "--samples", "20"]
    assert command([str(results), *words, "--output", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("AP-fixed", "AP-pool", "boundary AP", "classification", "LaECE", "confused"))
    assert f"results:     {results}" in shown and f"annotations: {annotations}" in shown
    lines = [line for line in shown.splitlines() if not line.startswith(("results: ", "annotations: ", "["))]
    assert len(lines) < 70 and max(map(len, lines)) <= 80
    analysis = Analysis.load(tmp_path / "out" / "analysis.json")
    assert f"{analysis.tasks['segm'].metrics['AP']:.2f}" in shown


def test_two_results_are_compared(case, tmp_path, command, capsys):
    annotations, _, results = case
    weaker = json.loads(results.read_text())[::2]
    (tmp_path / "weaker.json").write_text(json.dumps(weaker))
    words = ["--dataset", str(annotations), "--samples", "50", "--compare", str(tmp_path / "weaker.json")]
    assert command([str(results), *words, "--output", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert f"A: {results}\nB: {tmp_path / 'weaker.json'}\n" in shown
    line, interval = re.search(r"^A − B (.*)\n95% (.*)", shown, re.MULTILINE).groups()
    content = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert content["direction"] == "first minus second" and content["first"]["results"] == str(results)
    ap = content["tasks"]["bbox"]["AP"]
    difference = ap["difference"]
    assert difference["value"] == ap["first"]["value"] - ap["second"]["value"]
    assert line.split()[0] == f"{difference['value']:+.2f}" and f"[{difference['low']:+.2f}, " in interval
    assert difference["low"] < difference["value"] < difference["high"]
    assert max(len(line) for line in shown.splitlines() if re.match(r"A −|95%", line)) <= 80


def test_errors_of_the_command_line_are_shown(case, tmp_path, command, capsys):
    annotations, _, results = case
    assert command([str(results)]) == 2
    assert "with a config.yaml that names its dataset; add --dataset" in capsys.readouterr().err
    words = [str(results), "--dataset", str(annotations), "--samples", "0"]
    assert command([*words, "--compare", str(results)]) == 2
    assert "--compare needs resamples" in capsys.readouterr().err
    assert command([*words, "--output", str(results)]) == 4
    message = f"error: --output '{results}' can't be written to: a file has this name; fix this, or choose another --ou"
    assert message in (shown := capsys.readouterr().err) and "--resume" not in shown


def test_the_dataset_of_a_run_is_that_of_its_config(rendered, tiny_cfg, tmp_path, command, capsys):
    run = tmp_path / "run"
    (run / "inference").mkdir(parents=True)
    (run / "config.yaml").write_text(tiny_cfg.dump())
    annotation = json.loads(Path(evaluation_file_of("rendered_val")).read_text())["annotations"][0]
    record = {key: annotation[key] for key in ("image_id", "category_id", "bbox")}
    (run / "inference" / "lvis_instances_results.json").write_text(json.dumps([{**record, "score": 0.5}]))
    assert command([str(run), "--samples", "0"]) == 0
    assert "Boxes" in capsys.readouterr().out
