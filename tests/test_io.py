import json

import pytest

from balanced_lvis.io import write_json


def test_nan_becomes_null_and_folders_are_made(tmp_path):
    path = tmp_path / "a" / "b.json"
    write_json(path, {"x": float("nan"), "y": [1.5, (2, None)]})
    assert json.loads(path.read_text()) == {"x": None, "y": [1.5, [2, None]]}


def test_a_failed_write_leaves_the_previous_file(tmp_path):
    path = tmp_path / "b.json"
    write_json(path, [1])
    with pytest.raises(TypeError):
        write_json(path, [object()])
    assert json.loads(path.read_text()) == [1]
