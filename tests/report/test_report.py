"""The file: size, content, what is left out."""

import html
import json
import os
import re
import shutil

import numpy as np
import pytest

import balanced_lvis.report as report_module
from balanced_lvis.analysis import Options, analyze_results, compare_results
from balanced_lvis.commands import report as command
from balanced_lvis.report import drawing, run_names, write_report
from balanced_lvis.report.numbers import page_json
from balanced_lvis.utils.errors import InputError, StorageError
from tests.report.made import HOSTILE, made_dataset

QUICK = Options(samples=20)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return made_dataset(tmp_path_factory.mktemp("made"), categories=12, images=20)


@pytest.fixture(scope="module")
def written(made, tmp_path_factory):
    """A report of two runs, and its text."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    report = write_report(made.runs, made.annotations, path, image_root=made.images, options=QUICK)
    return report, path.read_text()


def data_of(text: str) -> dict:
    (content,) = re.findall(r'<script type="application/json" id="report-data">(.*?)</script>', text, re.DOTALL)
    return json.loads(content)


def test_the_file_needs_nothing_else(written):
    report, text = written
    assert report.size == len(text.encode()) and report.notices == ()
    markup = re.sub(r"(<(script|style)[^>]*>).*?(</\2>)", r"\1\3", text, flags=re.DOTALL)
    assert 'id="about"' in markup and "Tabulator v" not in markup
    assert not re.search(r'<(script|link|img|image|iframe)[^>]*(src|href)="(?!data:)', markup)
    assert "default-src 'none'" in html.unescape(text.partition("<style>")[0]) and "sourceMappingURL" not in text
    assert text.count("<script") == text.count("</script>") - text.count(r"<\/script>")


def test_libraries_follow_their_licences(written):
    scripts = re.findall(r"<script>(.*?)</script>", written[1], re.DOTALL)
    of_libraries = [script for script in scripts if script.startswith("/*!")]
    assert [script.split("\n")[0] for script in of_libraries] == ["/*! tabulator.min.js", "/*! plotly-basic.min.js"]
    for script, owner in zip(of_libraries, ("Oli Folkerd", "Plotly Technologies")):
        comment = script.partition("*/")[0]
        assert "Permission is hereby granted" in comment and owner in comment
    assert "Mike Bostock" in comment and "Redistributions in binary form must reproduce" in comment


def test_pages_of_categories_have_their_most_frequent_confusions(made, written):
    data = data_of(written[1])
    for run, folder in enumerate(made.runs):
        result = analyze_results(folder, made.annotations, QUICK).tasks["segm"]
        ranks = {category.id: rank for rank, category in enumerate(result.categories)}
        shown = data["results"]["segm"][run]["confusion"]
        for category, rank in ranks.items():
            for place, role in enumerate(("detected", "annotated")):
                counts = sorted((p.count for p in result.confusion if getattr(p, role) == category), reverse=True)
                assert [pair[2] for pair in shown if pair[place] == rank][:5] == counts[:5]


def test_numbers_and_differences_are_those_of_the_analysis(made, written):
    data = data_of(written[1])
    first, second = (analyze_results(run, made.annotations, QUICK) for run in made.runs)
    for task in ("segm", "bbox"):
        for run, analysis in enumerate((first, second)):
            result = analysis.tasks[task]
            found = data["results"][task][run]
            aps = [category.ap for category in result.categories]
            np.testing.assert_allclose(np.array(found["columns"]["ap"], float), np.round(aps, 2))
            lost = {kind: values["all"] for kind, values in result.errors.ap_lost.items()}
            assert {kind: values["all"] for kind, values in found["lost_by"].items()} == pytest.approx(lost, abs=0.006)
            interval = result.bootstrap.metrics["AP"]
            assert data["intervals"][task][run]["AP"] == pytest.approx(
                [interval.value, interval.low, interval.high], abs=6e-4
            )
    compared = compare_results(made.runs[1], made.runs[0], made.annotations, QUICK).tasks["segm"]["AP"].difference
    assert compared.low > 0
    assert f"+{compared.value:.1f} (+{compared.low:.1f} to +{compared.high:.1f})" in written[1]


def test_views_show_what_became_of_objects_and_detections(made, written):
    data = data_of(written[1])
    views = data["views"]
    assert len(views) == written[0].views > 20
    names = [category["name"] for category in data["categories"]]
    assert names == [category["name"] for category in made.content["categories"]]
    seen = {"found": 0, "missed": 0, "false": 0}
    for k, (objects, false) in enumerate(data["examples"]):
        for view in (views[index] for index in objects):
            marks = [mark for mark in view["marks"] if mark["r"] < 0]
            assert [mark["c"] for mark in marks] == [k] and all(mark["p"].startswith("M") for mark in view["marks"])
            for run, fate in enumerate(view["runs"]):
                own = [mark for mark in view["marks"] if mark["r"] == run]
                if "s" in fate:
                    assert own[0]["t"] == 1 and own[0]["s"] == fate["s"] and own[0]["c"] == k
                seen["found" if "s" in fate else "missed"] += 1
        for view in (views[index] for index in false):
            assert view["marks"][0]["t"] == 0 and view["marks"][0]["c"] == k
            seen["false"] += 1
    assert all(seen.values())
    for change in data["changes"]:
        for kind, finder in (("better", 1), ("worse", 0)):
            shown = [views[index]["runs"] for _, indices in change[kind] for index in indices]
            assert all("s" in fates[finder] and "s" not in fates[1 - finder] for fates in shown)
    assert sum(len(indices) for _, indices in data["changes"][0]["better"]) > 5


def test_whole_images_show_all_objects(made, written):
    data = data_of(written[1])
    for lists in data["images"]:
        assert len(lists["worst"]) == len(lists["best"]) == 8 and not set(lists["worst"]) & set(lists["best"])
        for index in (*lists["worst"], *lists["best"]):
            view = data["views"][index]
            objects = sum(mark["r"] < 0 for mark in view["marks"])
            for right, _, missed in view["runs"]:
                assert right + missed == objects == 4


def test_the_size_is_limited_and_what_is_left_out_is_reported(made, written, tmp_path, package_log):
    full = written[0]
    limit = (full.size - 150_000) / 1e6
    report = write_report(
        made.runs, made.annotations, tmp_path / "r.html", image_root=made.images, options=QUICK, max_megabytes=limit
    )
    assert limit * 1e6 - 200_000 < report.size <= limit * 1e6
    assert 0 < report.views < full.views
    left_out = full.views - report.views
    assert f"{left_out:,} of {full.views:,} chosen image crops were left out" in report.notices[0]
    assert report.notices[0] in package_log.text and report.notices[0] in (tmp_path / "r.html").read_text()
    with pytest.raises(InputError, match=r"max_megabytes is 1, but the page needs 1\.\d+ MB without images"):
        write_report(made.runs, made.annotations, tmp_path / "r.html", options=QUICK, max_megabytes=1)


def test_the_size_is_kept_where_views_take_more_than_was_expected(made, written, tmp_path, monkeypatch):
    monkeypatch.setattr(drawing, "page_json", lambda view: page_json(view)[::2])
    path, limit = tmp_path / "r.html", (written[0].size - 150_000) / 1e6
    report = write_report(made.runs, made.annotations, path, image_root=made.images, options=QUICK, max_megabytes=limit)
    assert limit * 1e6 - 300_000 < report.size == path.stat().st_size <= limit * 1e6
    data = data_of(path.read_text())
    shown = [index for lists in data["examples"] for own in lists for index in own]
    assert 0 < max(shown) < len(data["views"]) == report.views
    left_out = written[0].views - report.views
    assert left_out > 0 and f"{left_out:,} of {written[0].views:,} chosen image crops" in report.notices[0]


def test_without_images_there_are_no_crops(made, tmp_path, package_log):
    report = write_report(made.runs[:1], made.annotations, tmp_path / "r.html", options=QUICK)
    assert report.views == 0 and "folder of the images is not known" in report.notices[0]
    report = write_report(
        made.runs[:1], made.annotations, tmp_path / "r.html", image_root=tmp_path / "nowhere", options=QUICK
    )
    assert report.views == 0
    assert "20 of 20 images do not exist in " in report.notices[0] and "no images are shown" in report.notices[0]
    text = (tmp_path / "r.html").read_text()
    assert text.count("images do not exist in") == 1 and 'id="images"' not in text
    assert "images do not exist in" in package_log.text


def test_missing_and_damaged_images_are_left_out(made, tmp_path, package_log):
    images = tmp_path / "images"
    images.mkdir()
    for path in sorted(made.images.iterdir())[1:]:
        (images / path.name).write_bytes(path.read_bytes() if path.name != "00002.jpg" else b"damaged")
    report = write_report(made.runs, made.annotations, tmp_path / "r.html", image_root=images, options=QUICK)
    assert "1 of 20 images does not exist" in report.notices[0] and "it is not shown (id 1)" in report.notices[0]
    assert report.notices[1].startswith("1 image that exists is not shown (00002.jpg): Image ")
    assert all(notice in package_log.text for notice in report.notices)
    shown = {view["image"] for view in data_of((tmp_path / "r.html").read_text())["views"]}
    assert not shown & {"00001.jpg", "00002.jpg"} and len(shown) > 10
    assert "00002.jpg" in package_log.text


def test_names_cannot_end_the_data_or_add_elements(written):
    _, text = written
    for name in HOSTILE[:4]:
        assert name not in text
    assert "onerror='window" not in text


def test_names_and_paths_that_are_not_utf_8_are_escaped(made, tmp_path):
    folder = tmp_path / os.fsdecode(b"\xff")
    shutil.copytree(made.runs[0], folder / "run")
    shutil.copy(made.annotations, folder)
    path, names = tmp_path / "r.html", [f"name of {folder.name}"]
    options = {"names": names, "title": f"title {folder.name}", "image_root": folder / "images", "options": QUICK}
    write_report([folder / "run"], folder / made.annotations.name, path, **options)
    text = path.read_text()
    assert "<title>title \\udcff</title>" in text and data_of(text)["runs"] == ["name of \\udcff"]
    for name in ("run", "images", made.annotations.name):
        assert f"{tmp_path}/\\udcff/{name}" in text


def test_names_of_runs_are_what_differs_in_their_paths():
    assert run_names(["output/a/seed_0", "output/b/seed_0"]) == ["a", "b"]
    assert run_names(["a/seed_0/inference/results.json", "a/seed_1/inference/results.json"]) == ["seed_0", "seed_1"]
    assert run_names(["output/rfs/seed_0"]) == ["rfs/seed_0"] and run_names(["x/results.json"]) == ["results"]


def test_invalid_arguments_are_named(made, tmp_path):
    path = tmp_path / "r.html"
    with pytest.raises(InputError, match="samples is 0"):
        write_report(made.runs, made.annotations, path, options=Options(samples=0))
    with pytest.raises(InputError, match="0 runs given"):
        write_report([], made.annotations, path)
    with pytest.raises(InputError, match="1 names given for 2 runs"):
        write_report(made.runs, made.annotations, path, names=["a"])
    with pytest.raises(InputError, match="names are not distinct: a, a"):
        write_report(made.runs, made.annotations, path, names=["a", "a"])
    with pytest.raises(InputError, match="results are not distinct"):
        write_report([made.runs[0]] * 2, made.annotations, path, names=["a", "b"])
    assert not path.exists()


@pytest.mark.parametrize("size", [0, -1, float("inf"), float("nan")])
def test_the_size_is_checked_before_the_analysis(made, tmp_path, monkeypatch, size):
    monkeypatch.delattr(report_module, "Collector")
    with pytest.raises(InputError, match=f"max_megabytes is {size}; pass a number above 0, such as 15"):
        write_report(made.runs, made.annotations, tmp_path / "r.html", max_megabytes=size)


def test_the_output_is_checked_before_the_analysis(made, tmp_path, monkeypatch):
    monkeypatch.delattr(report_module, "Collector")
    with pytest.raises(StorageError, match="a folder has this name"):
        write_report(made.runs, made.annotations, tmp_path)


def test_a_report_of_boxes_only_says_so(made, tmp_path):
    paths = [tmp_path / "some.json", tmp_path / "all.json"]
    objects = [{key: one[key] for key in ("image_id", "category_id", "bbox")} for one in made.content["annotations"]]
    for path, step in zip(paths, (2, 1)):
        path.write_text(json.dumps([{**one, "score": 0.9} for one in objects[::step]]))
    write_report(paths, made.annotations, tmp_path / "r.html", options=QUICK)
    text = (tmp_path / "r.html").read_text()
    (headline, *_) = re.findall(r'<p class="headline">(.*?)</p>', text, re.DOTALL)
    assert re.sub(r"<.*?>|\s+", " ", headline).split()[:7] == ["all", "has", "a", "higher", "box", "AP", "than"]
    assert data_of(text)["tasks"] == ["bbox"] and 'id="task-switch"' not in text


def test_the_command_writes_the_report_and_prints_its_path(made, tmp_path, capsys):
    path = tmp_path / "new" / "r.html"
    words = [*map(str, made.runs), "--dataset", str(made.annotations), "--image-root", str(made.images)]
    assert command.main([*words, "--output", str(path), "--samples", "20", "--names", "A & B", "C"]) == 0
    assert f"Report: {path} (" in capsys.readouterr().out
    text = path.read_text()
    assert "A &amp; B" in text and data_of(text)["runs"] == ["A & B", "C"]
