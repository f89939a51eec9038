"""Every command of ``balanced-lvis``, and the tools that are the same commands."""

import ast
import importlib
import re
import signal
import subprocess
import sys
import time

import pytest

import balanced_lvis_cli as cli
from balanced_lvis.utils.errors import InputError, Preempted
from tests.common import ROOT, load_tool

TOOLS = {
    "train": "train_net",
    "predict": "predict",
    "calibrate": "calibrate",
    "export": "export_submission",
    "analyze-dataset": "analyze_dataset",
    "collect-logits": "collect_logits",
    "analyze-results": "analyze_results",
    "report": "report",
    "convert": "convert_checkpoint",
    "compare": "compare",
    "quickstart": "quick_start",
    "prepare-lvis": "prepare_lvis",
    "render": "render_dataset",
    "replay": "replay_step",
    "scaling": "scaling",
    "train-classifier": "train_classifier",
    "classification": "classification",
}


@pytest.fixture
def start(monkeypatch, capsys):
    """Runs the console command in this process; returns its status and what it printed."""
    monkeypatch.setattr(cli, "end_on_early_signals", lambda: None)  # this process keeps its handlers

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["balanced-lvis", *words])
        try:
            status = cli.main()
        except SystemExit as error:
            status = error.code
        return status, capsys.readouterr()

    return run


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_of_a_command_shows_how_it_was_started(name, start):
    status, shown = start(name, "--help")
    assert status == 0
    assert re.match(rf"usage: balanced-lvis {name}\s", shown.out)
    assert "%(prog)s" not in shown.out and f"balanced-lvis {name} " in shown.out.partition("\n\n")[2]


@pytest.mark.parametrize("command", TOOLS)
def test_a_tool_is_the_command(command):
    assert load_tool(TOOLS[command]).__name__ == f"balanced_lvis.commands.{cli.COMMANDS[command][0]}"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("train", []),
        ("train-classifier", []),
        ("evaluate", ["--weights", "x.pth"]),
        ("export", []),
        ("export", ["MODEL.WEIGHTS", "x.pth"]),
    ],
)
def test_a_missing_config_is_asked_for(command, words, capsys):
    module = importlib.import_module(f"balanced_lvis.commands.{cli.COMMANDS[command][0]}")
    assert module.main(words) == InputError.exit_status
    assert "--config-file is missing; name a config" in capsys.readouterr().err


def test_messages_name_commands_that_an_installed_package_has():
    """The scripts in tools/ exist in a clone only."""
    for path in (ROOT / "balanced_lvis").rglob("*.py"):
        for text in _texts(path):
            assert not re.search(r"tools/\w+\.py", text), f"{path}: {text}"
            for command in re.findall(r"`?balanced-lvis ([a-z][\w-]+)", text):
                assert command in cli.COMMANDS, f"{path}: {text}"


def _texts(path):
    """The strings of a module, apart from docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docstrings = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value


def test_every_module_of_commands_with_a_main_is_a_command():
    folder = ROOT / "balanced_lvis" / "commands"
    modules = {path.stem for path in folder.glob("*.py") if "\ndef main(" in path.read_text(encoding="utf-8")}
    assert modules == {module for module, _ in cli.COMMANDS.values()}


def test_a_wrong_command_and_none_are_input_errors(start):
    assert start()[0] == InputError.exit_status
    status, shown = start("trian")
    assert status == InputError.exit_status and shown.err.startswith("error: 'trian' is not a command")
    assert start("--version")[1].out.startswith("balanced-lvis 0.")


def test_a_former_name_of_a_command_works_with_one_line_about_the_new_one(start):
    status, shown = start("analyze", "--help")
    assert status == 0 and shown.out.startswith("usage: balanced-lvis analyze-dataset ")
    assert shown.err == "`balanced-lvis analyze` is deprecated; use `balanced-lvis analyze-dataset`.\n"
    assert not cli.ALIASES.keys() & cli.COMMANDS.keys() and set(cli.ALIASES.values()) <= cli.COMMANDS.keys()


def test_a_signal_during_imports_exits_at_once_and_quietly(tmp_path):
    process = subprocess.Popen(
        [sys.executable, ROOT / "balanced_lvis_cli.py", "convert", "a", "b"], stderr=subprocess.PIPE, cwd=tmp_path
    )
    time.sleep(0.5)  # imports take seconds
    process.send_signal(signal.SIGTERM)
    assert process.communicate()[1] in (b"", b"Stopped at once by SIGTERM.\n")
    assert process.returncode == Preempted.exit_status


def test_configs_are_listed_by_name(start):
    names = start("configs")[1].out.split()
    assert {"r50_balanced_sigmoid", "rendered/rfs", "quick_start/sigmoid", "custom/r50_balanced_sigmoid"} <= set(names)
    assert "classification/characters/ldam" in names and "classification/base/characters" not in names
    assert not any(name.startswith("base/") for name in names)
    assert all("r50_b" in name for name in start("configs", "r50_b")[1].out.split())


def test_statuses_of_the_console_command_are_those_of_the_package():
    assert (Preempted.exit_status, InputError.exit_status) == (cli._PREEMPTED, cli._INPUT_ERROR)
    for module, line in cli.COMMANDS.values():
        assert importlib.util.find_spec(f"balanced_lvis.commands.{module}") and line[0].islower()
