import json
import os

import pytest

from balanced_lvis.data.annotations.counting import count_classes
from balanced_lvis.data.custom.conversion_cache import converted
from balanced_lvis.data.index.opening import open_index
from balanced_lvis.data.validation import validate_annotations
from balanced_lvis.engine.checkpoints.checkpoint_file import read_checkpoint
from balanced_lvis.engine.diagnostics import replay
from balanced_lvis.evaluation.submission import ImageList
from balanced_lvis.evaluation.submission.results_reader import batches_of
from balanced_lvis.priors import ClassPrior
from balanced_lvis.utils.errors import InputError
from balanced_lvis.utils.io import open_regular, sha256_of, write_json, write_json_list


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


# ------------------------------------------------------------------ only regular files are read

_READERS = {
    "annotations that are checked": lambda path: validate_annotations(path),
    "annotations that are counted": lambda path: count_classes(path),
    "annotations that are indexed": lambda path: open_index(path),
    "annotations that are converted": lambda path: converted(path, "", None),
    "an image list": lambda path: ImageList(path),
    "a results file": lambda path: list(batches_of(path)),
    "a checkpoint": lambda path: read_checkpoint(path),
    "a training step": lambda path: replay(path),
    "a class prior": lambda path: ClassPrior.load(path),
    "what is hashed": lambda path: sha256_of(path),
}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no FIFOs on this system")
@pytest.mark.parametrize("reader", _READERS.values(), ids=_READERS)
def test_a_fifo_or_a_device_is_refused_by_every_reader(reader, tmp_path):
    os.mkfifo(tmp_path / "fifo.json")
    with pytest.raises(InputError, match=r"fifo\.json is a FIFO; only regular files can be read"):
        reader(str(tmp_path / "fifo.json"))
    (tmp_path / "link.json").symlink_to("/dev/zero")
    with pytest.raises(InputError, match=r"link\.json is a device"):
        reader(str(tmp_path / "link.json"))


def test_a_regular_file_is_read_as_open_reads_it(tmp_path):
    (tmp_path / "a.txt").write_text("straße\n", encoding="utf-8")
    with open_regular(tmp_path / "a.txt") as file:
        assert file.read() == "straße\n".encode()
    with open_regular(tmp_path / "a.txt", "r", encoding="utf-8") as file:
        assert file.read() == "straße\n"
    (tmp_path / "link.txt").symlink_to("a.txt")
    with open_regular(tmp_path / "link.txt") as file:
        assert file.read(1) == b"s"
    for path in (tmp_path / "missing.txt", tmp_path):
        with pytest.raises(OSError):
            open_regular(path).close()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no FIFOs on this system")
def test_what_becomes_a_fifo_after_it_was_looked_at_is_refused_too(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    os.mkfifo(path)
    (tmp_path / "b.txt").touch()
    regular = os.stat(tmp_path / "b.txt")
    monkeypatch.setattr(os, "stat", lambda *arguments, **options: regular)
    with pytest.raises(InputError, match="a FIFO"):
        open_regular(path)
