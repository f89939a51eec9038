"""The start-up suite on a small file."""

import json

import pytest

from benchmarks import SUITES, Options, startup
from benchmarks.startup import synthetic_annotations
from tests.benchmarks.in_process import in_this_process


@pytest.fixture
def datasets(monkeypatch, tmp_path):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    return tmp_path


def test_the_annotations_are_made_once_and_are_lvis_like(datasets):
    path = synthetic_annotations(1000)
    stamp = path.stat().st_mtime_ns
    assert synthetic_annotations(1000) == path
    assert path.stat().st_mtime_ns == stamp
    content = json.loads(path.read_text())
    assert len(content["annotations"]) == 1000
    assert len(content["images"]) == 79
    assert len(content["categories"]) == 1203
    assert {a["image_id"] for a in content["annotations"]} <= {i["id"] for i in content["images"]}


def test_it_reports_first_later_and_further_starts_with_equal_records(datasets, monkeypatch):
    monkeypatch.setattr(startup, "in_fresh_process", in_this_process(startup))
    rows = SUITES["startup"](Options(rounds=1, annotations=1000))
    assert [row["size"].rsplit(", ", 1)[1] for row in rows] == ["first start", "later starts", "each further rank"]
    assert all(row["identical"] for row in rows)
    assert all(row["stock_seconds"] > 0 and row["ours_seconds"] > 0 for row in rows)
