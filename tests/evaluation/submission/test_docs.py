"""docs/submission.md: its commands are ones that the tools take, and its table is the checks'."""

import json
import re
import shlex

import pytest

from balanced_lvis.commands.train import argument_parser
from balanced_lvis.evaluation.submission import KINDS
from tests.common import ROOT, load_tool
from tests.docs import blocks

TEXT = (ROOT / "docs" / "submission.md").read_text(encoding="utf-8")
BLOCKS = "\n".join(blocks(TEXT, "sh")).replace("\\\n", " ")
COMMANDS = [line for line in BLOCKS.splitlines() if line.startswith("tools/")]


@pytest.fixture
def tool(monkeypatch):
    """tools/export_submission.py, which notes what it would do."""
    module = load_tool("export_submission")
    module.called = []

    class Nothing:
        problems, errors = (), ()

    def note(name, result):
        monkeypatch.setattr(module, name, lambda *args, **kwargs: module.called.append(name) or result)

    for name, result in (("export_checkpoint", None), ("export_predictions", []), ("validate_submission", Nothing)):
        note(name, result)
    monkeypatch.setattr(module, "annotation_file_of", lambda dataset: dataset)
    monkeypatch.setattr(module, "ImageList", lambda path: None)
    return module


def test_every_command_is_one_that_the_tools_take(tool):
    assert len(COMMANDS) >= 4
    for words in map(shlex.split, COMMANDS):
        if words[0] == "tools/export_submission.py":
            tool.called.clear()
            assert tool.main(words[1:]) == 0
            expected = next((n for n in ("validate", "predictions") if f"--{n}" in words), "checkpoint")
            assert [name.startswith(expected) or name.endswith(expected) for name in tool.called] == [True]
        else:
            assert words[0] == "tools/train_net.py" and argument_parser().parse_args(words[1:])


def test_the_table_of_faults_is_that_of_the_checks():
    rows = re.findall(r"^\| (error|warning) \| (.*?) \| (.*?) \|$", TEXT, re.MULTILINE)
    assert rows == [tuple(entry) for entry in KINDS.values()]


def test_a_submission_for_data_of_ones_own_is_checked_by_their_config(tmp_path, capsys):
    module = load_tool("export_submission")
    content = {
        "images": [{"id": 3, "height": 10, "width": 10, "file_name": "a.jpg"}],
        "categories": [{"id": 7, "name": "a"}],
        "annotations": [{"id": 1, "image_id": 3, "category_id": 7, "bbox": [1, 1, 5, 5], "area": 25}],
    }
    (tmp_path / "val.json").write_text(json.dumps(content))
    found = [{"image_id": 3, "category_id": 1, "bbox": [1, 1, 5, 5], "score": 0.5}]
    (tmp_path / "found.json").write_text(json.dumps(found))
    arguments = ["--validate", str(tmp_path / "found.json"), "--dataset", "my_val"]
    assert module.main(arguments) == 2
    assert "needs the --config-file" in capsys.readouterr().err
    own = [f"DATASETS.CUSTOM.my_val.{key}" for key in ("JSON", "IMAGES")]
    overrides = [own[0], str(tmp_path / "val.json"), own[1], str(tmp_path)]
    assert module.main([*arguments, *overrides]) == 2
    assert "not in the dataset: number 1 of image 3, category_id 1." in capsys.readouterr().out
