"""The command line of the benchmarks."""

import json
import sys

import pytest

from benchmarks.measure import Options, row
from tests.common import load_tool


@pytest.fixture
def tool(monkeypatch):
    module = load_tool("benchmark")

    def broken(options):
        raise ValueError("no such thing")

    suites = {"one": lambda options: [row("one", "x", [2.0], [1.0], None, True)], "two": broken}
    monkeypatch.setattr(module, "SUITES", {**suites, "three": lambda o: [row("three", "y", [2.0], [1.0], None, True)]})
    monkeypatch.setattr(module, "ALL", ("one", "two", "three"))
    return module


def test_what_other_suites_measured_survives_a_failure(tool, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "all", "--json", str(tmp_path / "found.json")])
    assert tool.main() == 2
    shown = capsys.readouterr()
    assert "two failed: ValueError: no such thing" in shown.err
    assert "| one" in shown.out and "| three" in shown.out
    found = json.loads((tmp_path / "found.json").read_text())
    assert [made["suite"] for made in found["rows"]] == ["one", "three"]
    assert set(found["machine"]) >= {"cores", "torch"}


def test_without_a_failure_it_exits_with_0(tool, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "one"])
    assert not tool.main()


def test_help_tells_every_default(tool, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "--help"])
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        tool.main()
    shown = " ".join(capsys.readouterr().out.split())
    for name in ("rounds", "iterations", "images", "annotations"):
        about = shown.split(f" --{name} {name.upper()} ")[-1].split(" --")[0]
        assert about.endswith(f"; default: {getattr(Options, name)}")
