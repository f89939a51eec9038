"""The index on disk: when it is built, and what damages, kills and full disks do to it."""

import json
import logging
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
from detectron2.data import get_detection_dataset_dicts

from balanced_lvis.data.dataset_records import load_records
from balanced_lvis.data.index import opening
from balanced_lvis.utils.errors import InputError
from tests.data.index.made import (
    SMALL,
    annotation,
    content,
    exact,
    image,
    ours,
    register_plainly,
    same_size_other_content,
    stock,
    write,
)


def test_without_an_index_a_file_without_annotations_is_explained(tmp_path, monkeypatch, register):
    name = register(register_plainly, "unannotated", write(tmp_path, {"images": [image(1)], "categories": []}))
    monkeypatch.setenv(opening.MODE, "off")
    with pytest.raises(InputError, match="of unannotated has no 'annotations'.* unset BALANCED_LVIS_INDEX"):
        load_records(name)


def test_the_index_is_made_once(tmp_path, builds):
    path = write(tmp_path)
    for _ in range(3):
        assert list(ours(path)) == stock(path)
    assert builds == [path]
    assert sorted(os.listdir(tmp_path)) == ["annotations.json", "annotations.json.index", "annotations.json.index.lock"]


def test_a_changed_file_is_indexed_anew(tmp_path, builds):
    path = write(tmp_path)
    ours(path)
    same_size_other_content(path)
    assert list(ours(path)) == stock(path)
    write(tmp_path, content([image(1)], []))
    assert list(ours(path)) == stock(path)
    assert len(builds) == 3


def test_a_file_that_was_only_touched_keeps_its_index(tmp_path, builds, monkeypatch):
    path = write(tmp_path)
    ours(path)
    os.utime(path, ns=(0, 10**18))
    assert list(ours(path)) == stock(path)
    monkeypatch.setattr(opening, "sha256_of", None)  # the new time is recorded: the file isn't read again
    assert list(ours(path)) == stock(path)
    assert len(builds) == 1


def test_a_change_behind_size_and_time_is_found_where_that_is_asked_for(tmp_path, builds, monkeypatch):
    path = write(tmp_path)
    before, status = list(ours(path)), os.stat(path)
    same_size_other_content(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert list(ours(path)) == before, "so it is documented"
    monkeypatch.setenv(opening.MODE, "verify")
    assert list(ours(path)) == stock(path) != before
    ours(path)
    assert len(builds) == 2


def test_no_index_is_made_where_it_is_switched_off(tmp_path, builds, monkeypatch, register):
    monkeypatch.setenv(opening.MODE, "off")
    name = register(register_plainly, "plain", write(tmp_path))
    assert isinstance(load_records(name), list)
    assert os.listdir(tmp_path) == ["annotations.json"]


@pytest.mark.parametrize("size", [0, 1, 23, 24, 100, 1000, -1])
def test_an_index_that_was_cut_off_is_made_anew(tmp_path, builds, caplog, size):
    path = write(tmp_path)
    ours(path)
    data = Path(f"{path}.index").read_bytes()
    Path(f"{path}.index").write_bytes(data[:size])
    with caplog.at_level(logging.WARNING, logger="balanced_lvis"):
        assert list(ours(path)) == stock(path)
    assert "The index is rebuilt" in caplog.text
    assert Path(f"{path}.index").read_bytes() == data


@pytest.mark.parametrize("removed", [1, 8, 64, 4096])
def test_an_index_that_lost_bytes_in_its_midst_is_made_anew(tmp_path, builds, removed):
    path = write(tmp_path)
    ours(path)
    index = Path(f"{path}.index")
    data = index.read_bytes()
    for place in range(0, len(data) - 1500, 500):
        index.write_bytes(data[:place] + data[place + removed :])
        assert list(ours(path)) == stock(path)
        assert index.read_bytes() == data


def test_no_altered_byte_gives_another_record(tmp_path):
    path = write(tmp_path)
    expected, index = list(ours(path)), Path(f"{path}.index")
    data = index.read_bytes()
    refused = 0
    for place in range(0, len(data), 5):
        index.write_bytes(data[:place] + bytes([data[place] ^ 0x41]) + data[place + 1 :])
        try:
            assert list(ours(path)) == expected
        except InputError as error:
            assert "annotations.json.index is damaged at image" in str(error)
            refused += 1
        index.unlink(missing_ok=True)
    assert refused


def run_together(functions):
    processes = [multiprocessing.get_context("fork").Process(target=function) for function in functions]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    return [process.exitcode for process in processes]


def test_processes_that_start_together_make_one_index(tmp_path, monkeypatch):
    path = write(tmp_path)
    expected, build = stock(path), opening.build_index

    def slow_build(*args):
        with open(tmp_path / "builds", "a") as file:
            file.write("x")
        time.sleep(0.3)
        build(*args)

    def start():
        assert list(ours(path)) == expected

    monkeypatch.setattr(opening, "build_index", slow_build)
    assert run_together([start] * 4) == [0] * 4
    assert (tmp_path / "builds").read_text() == "x"


def test_a_killed_build_leaves_no_index_and_no_lock(tmp_path, monkeypatch):
    path = write(tmp_path)

    def die(json_file, output):
        output.write(b"half")
        output.flush()
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(opening, "build_index", die)
        assert run_together([lambda: ours(path)]) == [-signal.SIGKILL]
    assert not os.path.exists(f"{path}.index")
    assert list(ours(path)) == stock(path)
    assert not os.path.exists(f"{path}.index.partial")


def test_an_interrupted_build_leaves_nothing(tmp_path, monkeypatch):
    path = write(tmp_path)
    ours(path)
    before = Path(f"{path}.index").read_bytes()
    write(tmp_path, content([image(1)], []))

    def interrupted(json_file, output):
        output.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(opening, "build_index", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ours(path)
    assert Path(f"{path}.index").read_bytes() == before
    assert not os.path.exists(f"{path}.index.partial")


def in_a_folder_without_room(tmp_path):
    """A folder in which no longer name is possible, so that not even root can write an index."""
    path = tmp_path / f"{'a' * 246}.json"
    path.write_text(json.dumps(SMALL))
    return str(path)


def test_where_the_folder_cant_be_written_to_the_index_is_in_the_cache(tmp_path, builds, monkeypatch):
    path = in_a_folder_without_room(tmp_path)
    for _ in range(2):
        assert list(ours(path)) == stock(path)
    assert builds == [path]
    assert len(os.listdir(tmp_path)) == 1
    cached = list(Path(os.environ["XDG_CACHE_HOME"], "balanced_lvis").glob("*.index"))
    assert len(cached) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes to read-only folders")
def test_a_read_only_folder_stays_as_it_is(tmp_path):
    path = write(tmp_path)
    tmp_path.chmod(0o555)
    try:
        assert list(ours(path)) == stock(path)
        assert os.listdir(tmp_path) == ["annotations.json"]
    finally:
        tmp_path.chmod(0o755)


def test_where_nothing_can_be_written_a_warning_says_so_and_detectron2_loads(tmp_path, monkeypatch, caplog, register):
    path = in_a_folder_without_room(tmp_path)
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    name = register(register_plainly, "unwritable", path)
    with caplog.at_level(logging.WARNING, logger="balanced_lvis"):
        assert load_records(name) == get_detection_dataset_dicts(name)
    assert "is loaded without an index" in caplog.text
    assert "File name too long" in caplog.text and "Not a directory" in caplog.text


@pytest.mark.parametrize(
    "unusual",
    [
        content([{**image(1), "id": "one"}], [annotation(1, "one")]),
        content([image(1, height=480.0)], [annotation(1, 1)]),
        content([image(1)], [annotation(1, 1, bbox=[1.0, 2.0, 3.0])]),
        content([image(1)], [annotation(1, 1, segmentation=[[1.0, 2.0, 3.0, 4.0, 5.0, 2**53 + 1]])]),
        content([image(1)], [annotation(1, 1, segmentation=[[True] * 6])]),
        content([image(1, neg_category_ids="none")], [annotation(1, 1)]),
        content([image(2**70)], [annotation(1, 2**70)]),
    ],
)
def test_what_the_index_cant_hold_is_loaded_by_detectron2(tmp_path, caplog, register, unusual):
    name = register(register_plainly, "unusual", write(tmp_path, unusual))
    with caplog.at_level(logging.WARNING, logger="balanced_lvis"):
        records = load_records(name)
    assert exact(records) == exact(get_detection_dataset_dicts(name))
    assert "it can't be indexed" in caplog.text
    assert not list(tmp_path.glob("*.index"))
