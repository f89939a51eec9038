import json
import os

import pytest

from balanced_lvis.analysis.model import Analysis, ResultsSource
from balanced_lvis.calibration import LogitStatistics
from balanced_lvis.calibration.base import _stated_digest
from balanced_lvis.data.annotations.counting import count_classes
from balanced_lvis.data.custom.conversion_cache import converted
from balanced_lvis.data.index.opening import open_index
from balanced_lvis.data.validation import validate_annotations
from balanced_lvis.engine.checkpoints.checkpoint_file import read_checkpoint
from balanced_lvis.engine.diagnostics import replay
from balanced_lvis.evaluation.submission import ImageList
from balanced_lvis.evaluation.submission.results_reader import batches_of
from balanced_lvis.prediction.thresholds import read_thresholds
from balanced_lvis.priors import ClassPrior
from balanced_lvis.utils.errors import InputError
from balanced_lvis.utils.io import open_regular, sha256_of, write_json, write_json_list, write_text


def test_nan_becomes_null_and_folders_are_made(tmp_path):
    path = tmp_path / "a" / "b.json"
    write_json(path, {"x": float("nan"), "y": [1.5, (2, None)]})
    assert json.loads(path.read_text()) == {"x": None, "y": [1.5, [2, None]]}


def test_a_failed_write_leaves_the_previous_file(tmp_path):
    path = tmp_path / "b.json"
    write_json(path, [1])
    with pytest.raises(TypeError):
        write_json(path, [object()])
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "\ud800")
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

_STATISTICS = LogitStatistics(("a", "b"), [0.0, 1.0], [1.0, 2.0], 3)
# Readers of small JSON files, each with a function that writes one.
_JSON = {
    "a class prior": (ClassPrior.load, ClassPrior(("a", "b"), [1, 2], 3).save),
    "thresholds": (
        lambda path: read_thresholds(path, 0.5),
        lambda path: write_json(path, [{"name": "a", "threshold": 1}]),
    ),
    "logit statistics": (LogitStatistics.load, _STATISTICS.save),
    "a digest": (_stated_digest, _STATISTICS.save),
    "an analysis": (Analysis.load, Analysis(ResultsSource("", "", "", 1, 2, 2, 1, ""), 0.5, {}).save),
}
_READERS = {
    "annotations that are checked": lambda path: validate_annotations(path),
    "annotations that are counted": lambda path: count_classes(path),
    "annotations that are indexed": lambda path: open_index(path),
    "annotations that are converted": lambda path: converted(path, "", None),
    "an image list": lambda path: ImageList(path),
    "a results file": lambda path: list(batches_of(path)),
    "a checkpoint": lambda path: read_checkpoint(path),
    "a training step": lambda path: replay(path),
    "what is hashed": lambda path: sha256_of(path),
    **{name: reader for name, (reader, _) in _JSON.items()},
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


@pytest.mark.parametrize(("reader", "write"), _JSON.values(), ids=_JSON)
def test_json_may_have_a_byte_order_mark_and_other_content_is_an_input_error(reader, write, tmp_path):
    path = tmp_path / "a.json"
    write(path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    reader(path)
    for content, message in (
        (b"[" * 10**6, "is not valid JSON .*; write"),
        (b"\xff", "is not UTF-8; save it as UTF-8"),
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match=message):
            reader(path)
    with pytest.raises(InputError, match=r"nowhere\.json' can't be read: No such file"):
        reader(tmp_path / "nowhere.json")


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
