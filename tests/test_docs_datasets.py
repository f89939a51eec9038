"""docs/datasets.md shows what really is printed."""

import contextlib
import io
import json
import shlex

import pytest

from balanced_lvis.commands.train import argument_parser
from balanced_lvis.config import load_config
from balanced_lvis.data.custom.registration import source_of
from balanced_lvis.data.lvis_v1 import ANNOTATIONS, look, show
from tests import programs
from tests.common import ROOT
from tests.data.validation.made import good
from tests.docs import blocks, shown_after

TEXT = (ROOT / "docs" / "datasets.md").read_text(encoding="utf-8")


def commands(tool):
    lines = [line for text in blocks(TEXT, "sh") for line in text.splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith(tool)]


def test_the_table_of_an_empty_folder_is_the_shown_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert show(look("datasets", ["val"])) == shown_after(TEXT, "output of: tools/prepare_lvis.py")


def test_the_report_on_a_faulty_file_is_the_shown_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = good()
    content["annotations"][0]["segmentation"] = [[1.0, 1.0, 9.0, 1.0]]
    content["annotations"][1]["category_id"] = 7
    content["annotations"][2]["bbox"] = [15.0, 1.0, 9.0, 5.0]
    (tmp_path / "mine.json").write_text(json.dumps(content))
    (tmp_path / "images").mkdir()
    for name in ("3.jpg", "5.jpg"):
        (tmp_path / "images" / name).touch()
    (code,) = blocks(TEXT, "python")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code, {})
    assert printed.getvalue().strip() == shown_after(TEXT, "output of the above").strip()


def test_every_command_is_understood():
    found = commands("tools/prepare_lvis.py")
    assert len(found) == 4
    known = programs.run(ROOT / "tools" / "prepare_lvis.py", "--help").stdout
    for words in found:
        for word in words:
            assert not word.startswith("-") or word in known
    for words in commands("tools/train_net.py"):
        args = argument_parser().parse_args(words)
        assert args.allow_missing or args.eval_only
        cfg = load_config(ROOT / args.config_file if args.config_file else "", args.opts)
        if args.eval_only:
            assert cfg.DATASETS.TEST == ("lvis_minival",) and source_of(cfg, "lvis_minival").json_file.endswith(".json")


@pytest.mark.parametrize("file", ANNOTATIONS.values(), ids=list(ANNOTATIONS))
def test_counts_are_those_that_are_checked(file):
    for count in (file.num_images, file.num_annotations, file.num_categories):
        assert count is None or f"{count:,}" in TEXT
