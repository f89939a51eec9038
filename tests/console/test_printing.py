"""What is printed and logged shows names from files escaped."""

import io
import json
import logging
import sys

import pytest
import torch

from balanced_lvis.config import load_config
from balanced_lvis.console.command_line import command_line, log_to_files
from balanced_lvis.console.printing import escape_logged, print_error, print_text
from balanced_lvis.console.streams import keep_streams
from balanced_lvis.data.custom.registration import source_of
from balanced_lvis.data.images.broken_images import BrokenImages, attach
from balanced_lvis.data.samplers import class_aware
from balanced_lvis.data.validation import validate_annotations
from balanced_lvis.experiments.comparison_report import seeds_table, statistics_table
from balanced_lvis.experiments.methods import END_TO_END
from balanced_lvis.experiments.quick_start_report import comparison_table
from balanced_lvis.experiments.tables import markdown_table
from balanced_lvis.priors import ClassPrior
from balanced_lvis.utils.errors import InputError
from tests.common import load_tool

FORGED = "cat\x1b[31m\n[11/25 00:00:00 balanced_lvis]: forged\ud800"
SHOWN = "cat\\x1b[31m\\n[11/25 00:00:00 balanced_lvis]: forged\\ud800"


@pytest.fixture
def logger():
    """A logger as Detectron2 sets them up, with a stream of a terminal that knows no Chinese."""
    made = logging.getLogger("names_of_a_test")
    made.propagate = False
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("[%(asctime)s] %(message)s"))
    made.addHandler(handler)
    escape_logged(made)
    escape_logged(made)  # as where both a tool and a run set it up
    yield made, lambda: stream.buffer.getvalue().decode("ascii")
    made.removeHandler(handler)


def test_no_log_line_is_forged_and_no_escape_sequence_shown(logger):
    log, text = logger
    log.warning("class %s", FORGED)
    log.warning(f"of {FORGED} and \u732b")
    lines = text().splitlines()
    assert [line.startswith("[") for line in lines] == [True, False, True, False]
    assert lines[1] == "  [11/25 00:00:00 balanced_lvis]: forged\\ud800"
    assert "\x1b" not in text() and "cat\\x1b[31m" in lines[0] and lines[3].endswith("\\u732b")


def test_a_traceback_is_escaped_too(logger):
    log, text = logger
    try:
        raise ValueError(FORGED)
    except ValueError:
        log.exception("failed")
    assert "\x1b" not in text() and "ValueError: cat\\x1b[31m" in text()
    assert sum(line.startswith("[") for line in text().splitlines()) == 1


def test_a_table_that_is_logged_keeps_its_lines(logger):
    log, text = logger
    log.warning("Results:\n%s", "| a |\n| b |")
    assert text().splitlines()[1:] == ["  | a |", "  | b |"]


def test_what_a_run_logs_is_escaped_in_its_file(tmp_path):
    log_to_files(str(tmp_path), 0)
    logging.getLogger("balanced_lvis.x").warning("class %s", FORGED)
    logging.getLogger("fvcore").warning("key %s", FORGED)
    text = (tmp_path / "log.txt").read_text()
    assert text.count("cat\\x1b[31m\n  [11/25") == 2 and "\x1b" not in text


def test_an_error_is_one_message_whatever_it_names(capsys):
    @command_line
    def tool():
        raise InputError(f"{FORGED} is wrong:\n  1 problem")

    assert tool() == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: cat\\x1b[31m", "  [11/25 00:00:00 balanced_lvis]: forged\\ud800 is wrong:", "    1 problem",
    ]  # fmt: skip


def test_a_terminal_of_another_encoding_gets_escapes(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="latin-1", write_through=True)
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", None)  # as without a console
    keep_streams()
    print_text("\u732b \x9b31m é")
    assert stream.buffer.getvalue() == b"\\u732b \\x9b31m \xe9\n"


def test_errors_are_printed_to_standard_error(capsys):
    print_error("a\nerror: b")
    assert capsys.readouterr() == ("", "error: a\n  error: b\n")


# ------------------------------------------------------------------ tables, reports and messages


def test_a_name_is_one_cell_of_a_table():
    assert (
        markdown_table([["class", "AP"], [f"{FORGED} | 99.9", "1.0"]])
        .splitlines()[2]
        .startswith(f"| {SHOWN} \\| 99.9 |")
    )
    results = {FORGED: {"bbox": {"AP": 1.0}, "segm": {"AP": 2.0}}}
    for table in (
        comparison_table({FORGED: [results[FORGED]]}, ["AP"]),
        seeds_table(statistics_table({"m": [results[FORGED]]}), {"m": FORGED}, {"m": END_TO_END}, {"AP": "AP"}),
    ):
        assert SHOWN in table and len(table.splitlines()) == 3
        table.encode()


def test_analyze_dataset_takes_any_class_name(tmp_path, capsys):
    content = {
        "images": [{"id": 1, "width": 20, "height": 10, "file_name": "1.jpg"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5], "area": 25}],
        "categories": [{"id": 1, "name": FORGED}, {"id": 2, "name": "dog\ud800"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    arguments = [str(tmp_path / "a.json"), "--json", str(tmp_path / "p.json"), "--plot", str(tmp_path / "p.png")]
    assert load_tool("analyze_dataset").main(arguments) == 0
    out = capsys.readouterr().out
    assert SHOWN in out and "dog\\ud800" in out and "\x1b" not in out
    assert ClassPrior.load(tmp_path / "p.json").class_names == (FORGED, "dog\ud800")


def test_a_report_on_annotations_names_them_in_one_line(tmp_path):
    content = {
        "images": [{"id": 1, "width": 20, "height": 10, "file_name": f"../{FORGED}"}],
        "annotations": [],
        "categories": [{"id": 1, "name": FORGED}, {"id": 2, "name": FORGED}],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    report = validate_annotations(tmp_path / "a.json")
    assert {"path_leaves_root", "duplicate_category_name"} <= {problem.kind for problem in report.problems}
    for problem in report.problems:
        assert str(problem).isprintable()


def test_broken_images_are_named_in_one_line(caplog):
    images = BrokenImages(limit=1)
    images.take([attach({"image": 0}, {FORGED: "Image x is no image."})])
    assert caplog.messages == [f"Image left out and replaced by another: {SHOWN} (Image x is no image.)"]
    with pytest.raises(InputError) as caught:
        images.take([attach({"image": 0}, {f"b{FORGED}": FORGED})])
    assert f"\n  b{SHOWN}: {SHOWN}" in str(caught.value)


def test_classes_without_images_are_named_in_one_line(caplog):
    class_aware._report_absent.cache_clear()
    class_aware._report_absent((FORGED,))
    ClassPrior((FORGED, "b"), [0, 3], 3).share()
    assert len(caplog.messages) == 2 and all(SHOWN in message for message in caplog.messages)


@pytest.mark.parametrize(
    "content", ['MODEL: {{"{key}": 1}}\n', '"{key}": 1\n', 'DATASETS: {{CUSTOM: {{x: {{"{key}": 1}}}}}}\n']
)
def test_a_config_key_is_named_in_one_line(tmp_path, content):
    path = tmp_path / "c.yaml"
    path.write_text(content.format(key="A\\e[31m\\nerror: forged"))
    with pytest.raises(InputError) as caught:
        source_of(load_config(path, []), "x")
    assert "A\\x1b[31m\\nerror: forged" in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_checkpoints_names_are_shown_in_one_line(tmp_path, capsys):
    weights = {f"layer.{FORGED}": torch.zeros(1)}
    torch.save({"model": weights}, tmp_path / "a.pth")
    assert load_tool("convert_checkpoint").main([str(tmp_path / "a.pth"), str(tmp_path / "b.pth")]) == 2
    assert "\x1b" not in "".join(capsys.readouterr())
