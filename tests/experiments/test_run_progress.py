"""The progress of parallel runs, with and without a terminal."""

import io
import json
import sys
from types import SimpleNamespace

import pytest

from balanced_lvis.console.time_left import TimeLeft
from balanced_lvis.experiments import run_progress
from balanced_lvis.experiments.run_progress import Progress, Reporter
from balanced_lvis.experiments.runs import EvaluationRun, Run
from tests.common import CONFIGS


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def runs(tmp_path):
    config = CONFIGS / "quick_start" / "sigmoid.yaml"
    return [Run(key, key, config, tmp_path / key, ("SOLVER.MAX_ITER", "100")) for key in ("first", "second", "third")]


def record(run, iterations, loss=2.5):
    run.output.mkdir(exist_ok=True)
    line = json.dumps({"iteration": iterations - 1, "total_loss": loss})
    (run.output / "metrics.json").write_text(f"{line}\n")


def test_the_time_left_is_that_of_the_iterations_since_the_first_ones_were_seen():
    time_left = TimeLeft(100)
    assert time_left(0, 1000.0) == "00:00 elapsed, ? left"
    assert time_left(0, 1030.0) == "00:30 elapsed, ? left"  # starting
    assert time_left(10, 1040.0) == "00:40 elapsed, ? left"
    assert time_left(30, 1060.0) == "01:00 elapsed, 01:10 left"
    assert time_left(100, 1130.0) == "02:10 elapsed, ? left"  # evaluating


def test_iterations_after_the_checkpoint_that_is_resumed_are_not_waited_for():
    time_left = TimeLeft(400)
    for done, now in ((380, 0.0), (200, 5.0), (220, 10.0)):
        assert time_left(done, now).endswith("? left")
    assert time_left(240, 15.0) == "00:15 elapsed, 00:40 left"


def test_iterations_of_an_earlier_call_do_not_count():
    time_left = TimeLeft(100)
    assert time_left(50, 0.0) == "00:00 elapsed, ? left"
    time_left(60, 5.0)
    assert time_left(70, 15.0) == "00:15 elapsed, 00:30 left"


def test_without_a_terminal_lines_have_share_time_and_state_of_the_runs(runs, monkeypatch, capsys):
    clock = iter(range(0, 10000, 100))
    monkeypatch.setattr(run_progress, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    progress = Progress(runs)
    progress([], runs[:2], runs[2:])
    record(runs[0], 10)
    progress([], runs[:2], runs[2:])
    record(runs[0], 100)
    record(runs[1], 50, 1.25)
    progress([], runs[:2], runs[2:])
    progress(runs[:1], runs[1:], [])
    progress.close()
    first, second, third, fourth = capsys.readouterr().out.splitlines()
    assert first.endswith(" elapsed, ? left: first starting, second starting, 1 waiting") and first.startswith("0%, ")
    assert second.endswith(" elapsed, ? left: first 10/100 loss 2.50, second starting, 1 waiting")
    # A run of 100 iterations takes 22 s, and 30 s to start and evaluate: (22 + 11) / 156 and (52 + 11) / 156.
    assert third.startswith("21%, ") and third.endswith("left: first evaluating, second 50/100 loss 1.25, 1 waiting")
    assert fourth.startswith("40%, ") and fourth.endswith("left: second 50/100 loss 1.25, third starting")
    assert "? left" not in third + fourth


def test_iterations_of_a_waiting_run_count_from_the_start(runs, monkeypatch, capsys):
    monkeypatch.setattr(run_progress, "BAR_SECONDS", 0)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    record(runs[2], 60)
    Progress(runs)([], runs[:1], runs[1:])
    assert capsys.readouterr().out.startswith("8%, ")  # 0.6 * 22 / 156


def test_runs_count_by_what_they_typically_take(runs, monkeypatch, capsys):
    monkeypatch.setattr(run_progress, "BAR_SECONDS", 0)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    first = runs[0]
    second = Run("later", "later", first.config_file, first.output.parent / "later", first.overrides, first)
    third = EvaluationRun("test", "test", first.config_file, first.output.parent / "test", (), first)
    # In seconds: 22 + 30, 9 + 30 and 30.
    Progress([first, second, third])([first], [second], [third])
    assert capsys.readouterr().out.startswith("43%, ")


def test_on_a_terminal_there_is_a_bar_with_the_time_left_first(runs, monkeypatch, capsys):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    progress = Progress(runs)
    record(runs[0], 60)
    progress([], runs[:1], runs[1:])
    progress.close()
    shown = terminal.getvalue().split("\r")[-1]
    assert "  8%|" in shown and shown.index(" left: ") < shown.index("first 60/100 loss 2.50, 2 waiting")
    assert capsys.readouterr().out == ""


def test_each_run_that_ends_has_a_line(runs, capsys):
    runs[0].output.mkdir()
    results = {"bbox": {"AP": 30.0, "APr": 12.34}, "segm": {"AP": 25.0, "APr": float("nan")}}
    (runs[0].output / "results.json").write_text(json.dumps(results))
    Reporter(3)(runs[0], 90.0)
    assert capsys.readouterr().out == "first: box AP 30.0, APr 12.3, mask AP 25.0, APr –, 1.5 min; runs left: 2\n"
