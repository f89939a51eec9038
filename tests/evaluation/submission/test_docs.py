"""docs/submission.md: its commands are ones that the tools take, and its table is the checks'."""

import importlib.util
import re
import shlex

import pytest

from balanced_lvis.engine.run import argument_parser
from balanced_lvis.evaluation.submission import KINDS

from ...common import ROOT

TEXT = (ROOT / "docs" / "submission.md").read_text(encoding="utf-8")
BLOCKS = "\n".join(re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)).replace("\\\n", " ")
COMMANDS = [line for line in BLOCKS.splitlines() if line.startswith("tools/")]


@pytest.fixture
def tool(monkeypatch):
    """tools/export_submission.py, which notes what it would do."""
    spec = importlib.util.spec_from_file_location("export_submission", ROOT / "tools" / "export_submission.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
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
