"""Score thresholds of each class in predictions."""

import json

import numpy as np
import pytest

from balanced_lvis.prediction.predictor import Predictor
from balanced_lvis.utils.errors import InputError
from tests.common import load_tool
from tests.prediction.test_prediction import NAMES, THRESHOLD, pictures_of, run_folder  # noqa: F401


def write(path, values, names=NAMES):
    path.write_text(json.dumps([{"name": name, "threshold": value} for name, value in zip(names, values)]))
    return path


def test_each_class_has_its_own_threshold(run_folder, rendered, tmp_path):  # noqa: F811
    weights = run_folder / "model_final.pth"
    path = pictures_of(rendered)[0]
    every = Predictor.from_checkpoint(weights, threshold=THRESHOLD)(path)
    classes, scores = every.pred_classes.numpy(), every.scores.numpy()
    some = int(np.bincount(classes).argmax())
    middle = float(np.sort(scores[classes == some])[(classes == some).sum() // 2])  # of a detection, which is kept
    values = [THRESHOLD if index % 2 else None for index in range(len(NAMES))]
    values[some] = middle
    file = write(tmp_path / "thresholds.json", values)
    found = Predictor.from_checkpoint(weights, threshold=0.9, thresholds=file)(path)
    minimum = np.array([0.9 if value is None else value for value in values], np.float32)
    kept = scores >= minimum[classes]
    assert 0 < kept.sum() < len(scores) and middle in scores[kept]
    np.testing.assert_array_equal(found.scores.numpy(), scores[kept])
    np.testing.assert_array_equal(found.pred_classes.numpy(), classes[kept])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("[1]", "not a list of objects with name and threshold"),
        ("[]", "not a list of objects"),
        ('[{"name": "class a", "threshold": 2}]', "threshold of 'class a' is 2; it must be a number between 0 and 1"),
        ('[{"name": "class a", "threshold": true}]', "is True; it must be"),
        ('[{"name": "class a", "threshold": 0.5}]', "1 classes, but the model has 12; use thresholds from an analysis"),
    ],
)
def test_other_files_are_refused_with_the_remedy(run_folder, tmp_path, content, message):  # noqa: F811
    (tmp_path / "thresholds.json").write_text(content)
    with pytest.raises(InputError, match=message):
        Predictor.from_checkpoint(run_folder / "model_final.pth", thresholds=tmp_path / "thresholds.json")


def test_thresholds_of_other_classes_are_refused(run_folder, tmp_path):  # noqa: F811
    file = write(tmp_path / "thresholds.json", [0.5] * 12, [*NAMES[:4], "zebra", *NAMES[5:]])
    with pytest.raises(InputError, match=r"class 4 is 'zebra', but 'class e' in the model"):
        Predictor.from_checkpoint(run_folder / "model_final.pth", thresholds=file)
    with pytest.raises(InputError, match="can't be read"):
        Predictor.from_checkpoint(run_folder / "model_final.pth", thresholds=tmp_path / "nowhere.json")


def test_the_command_takes_thresholds(run_folder, rendered, tmp_path, capsys):  # noqa: F811
    file = write(tmp_path / "thresholds.json", [1.0] * 12)
    words = ["--weights", str(run_folder / "model_final.pth"), "--input", pictures_of(rendered)[0]]
    words += ["--output", str(tmp_path / "drawn")]
    assert load_tool("predict").main([*words, "--threshold", str(THRESHOLD), "--thresholds", str(file)]) == 0
    assert capsys.readouterr().out.startswith("0 objects in 1 images")
