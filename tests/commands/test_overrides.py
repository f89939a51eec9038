"""The command line of a training, an evaluation and a prediction."""

import pytest

from balanced_lvis.commands.overrides import split_overrides
from tests.common import load_tool


@pytest.mark.parametrize("last", [["MODEL.DEVICE", "cpu"], ["SEED", "1", "MODEL.DEVICE", "cpu"], []])
def test_overrides_after_files_are_told_from_them(last):
    assert split_overrides(["photos/1.jpg", "photos", *last]) == (["photos/1.jpg", "photos"], last)


def test_a_file_that_exists_is_no_override(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "MODEL.jpg").touch()
    assert split_overrides(["a.jpg", "MODEL.jpg"]) == (["a.jpg", "MODEL.jpg"], [])


@pytest.mark.parametrize("end", [["MODEL.DEVICE", "cpu"], ["--threshold", "0.3", "MODEL.DEVICE", "cpu"]])
def test_overrides_of_predict_come_last(end, tmp_path, monkeypatch):
    tool = load_tool("predict")
    seen = []

    def predictor(weights, config_file, opts, **_):
        seen.append(opts)
        raise tool.InputError("enough")

    monkeypatch.setattr(tool.Predictor, "from_checkpoint", predictor)
    (tmp_path / "a.jpg").touch()
    arguments = ["--weights", "w.pth", "--output", str(tmp_path / "out"), "--input", str(tmp_path / "a.jpg"), *end]
    assert tool.main(arguments) == 2
    assert seen == [["MODEL.DEVICE", "cpu"]]
