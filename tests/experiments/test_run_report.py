"""The report of an experiment, which its other results do not depend on."""

import errno
from pathlib import Path
from types import SimpleNamespace

import pytest

from balanced_lvis.experiments import run_report
from balanced_lvis.utils.errors import InputError, StorageError


@pytest.fixture
def runs(monkeypatch):
    """Two runs whose results exist."""
    cfg = SimpleNamespace(DATASETS=SimpleNamespace(TEST=("val",)))
    monkeypatch.setattr(run_report, "results_path", str)
    dataset = SimpleNamespace(annotations="val.json", image_root=None)
    monkeypatch.setattr(run_report, "evaluated_dataset", lambda cfg, name: dataset)
    return {name: SimpleNamespace(folder=Path(name), config=lambda: cfg) for name in ("a", "b")}


@pytest.mark.parametrize(
    "error",
    [
        InputError("the annotations changed."),
        StorageError("the disk is full."),
        PermissionError(errno.EACCES, "denied", "r"),
    ],
)
def test_a_report_that_fails_is_one_warning(runs, tmp_path, monkeypatch, capsys, error):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(run_report, "write_report", fail)
    assert run_report.report_runs(runs, tmp_path, "title") is None
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("Warning: no report.html is written: ") and "Report of" not in line


def test_a_bug_is_not_hidden(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(run_report, "write_report", lambda *arguments, **options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run_report.report_runs(runs, tmp_path, "title")


def test_its_path_is_printed(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run_report, "write_report", lambda *arguments, **options: None)
    assert run_report.report_runs(runs, tmp_path, "title") == tmp_path / "report.html"
    assert capsys.readouterr().out == f"Report of a and b: {tmp_path / 'report.html'}\n"


def test_an_earlier_report_is_removed(tmp_path):
    (tmp_path / "report.html").write_text("old")
    run_report.remove_report(tmp_path)
    run_report.remove_report(tmp_path)
    assert list(tmp_path.iterdir()) == []
