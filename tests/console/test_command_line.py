"""What a command line shows."""

import logging
import sys

import pytest
from detectron2.engine import train_loop

from balanced_lvis.commands.train import main
from balanced_lvis.console.command_line import command_line, quiet
from balanced_lvis.utils.errors import DivergedError, InputError


@pytest.mark.parametrize(("error", "shown"), [(DivergedError("nan"), False), (ZeroDivisionError(), True)])
def test_only_errors_that_nobody_foresaw_are_logged_with_a_traceback(error, shown, caplog):
    quiet()
    try:
        raise error
    except type(error):
        logging.getLogger(train_loop.__name__).exception("Exception during training:")
    assert ("Traceback" in caplog.text) == shown
    assert shown or "Training ends: DivergedError" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "error: --config-file is missing"),
        (["--config-file", "x.yaml", "SOLVER.MAX_ITER", "3", "--resume"], "error: --config-file 'x.yaml'"),
        (["SOLVER.MAX_ITER", "3", "--resume"], "error: --resume comes after overrides"),
    ],
)
def test_a_wrong_command_line_is_told_in_a_line(arguments, message, capsys):
    assert main(arguments) == InputError.exit_status
    assert capsys.readouterr().err.startswith(message)


@pytest.mark.parametrize("given", [True, False])
def test_the_home_folder_may_be_a_tilde_in_any_word(tmp_path, monkeypatch, given):
    monkeypatch.setenv("HOME", str(tmp_path))
    words = ["--input", "~/photos/*.jpg", "--json=~/found.json", "KEY", "~", "a~b", "--x=a~", "1~/2"]
    seen = []

    @command_line
    def tool(arguments=None):
        seen.extend(sys.argv[1:] if arguments is None else arguments)

    monkeypatch.setattr(sys, "argv", ["tool", *words])
    assert tool(words if given else None) == 0
    home = str(tmp_path)
    expected = ["--input", f"{home}/photos/*.jpg", f"--json={home}/found.json", "KEY", home, "a~b", "--x=a~", "1~/2"]
    assert seen == expected


def test_help_says_how_it_is_used(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert "--config-file r101_balanced_sigmoid --num-gpus 8 --resume" in text
    assert "--machine-rank 0 --num-machines 2" not in text
