"""The suite of submission validation on a small file, in this process."""

from benchmarks import SUITES, Options
from benchmarks import submission_validation as submission
from tests.benchmarks.in_process import in_this_process


def test_the_made_file_is_sound_and_has_300_detections_per_image(monkeypatch):
    monkeypatch.setattr(submission, "in_fresh_process", in_this_process(submission))
    (row,) = SUITES["submission"](Options(images=7, rounds=2))
    assert row["size"].startswith("2,100 detections, ")
    assert row["ours_peak_mb"] == 1 and row["ratio"] is None
