import json

import pytest

from balanced_lvis.io import write_json, write_json_list


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


def test_an_interrupted_list_leaves_the_previous_one(tmp_path):
    def interrupted():
        yield [1, 2]
        raise KeyboardInterrupt

    write_json(tmp_path / "b.json", ["before"])
    with pytest.raises(KeyboardInterrupt):
        write_json_list(tmp_path / "b.json", interrupted())
    assert json.loads((tmp_path / "b.json").read_text()) == ["before"]


def test_lists_are_written_as_write_json_writes_them(tmp_path):
    for batches in ([], [[]], [[1], [], [2, 3]], [[float("nan")], [{"a": [1.5, float("nan")]}]]):
        write_json_list(tmp_path / "streamed.json", batches)
        write_json(tmp_path / "whole.json", [item for batch in batches for item in batch])
        assert (tmp_path / "streamed.json").read_bytes() == (tmp_path / "whole.json").read_bytes()
