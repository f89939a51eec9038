"""The dataset on disk, and its parameters."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from balanced_lvis.data.rendered import (
    RenderedSpec,
    alphabet,
    annotation_file,
    is_rendered,
    read_spec,
    render_dataset,
)
from balanced_lvis.data.rendered import dataset as disk
from balanced_lvis.utils.errors import InputError
from tests.data.rendered.made import SMALL, TINY, digests, leftovers, load


def test_the_same_spec_gives_the_same_bytes_whatever_the_workers(small_root, tmp_path):
    again = render_dataset(SMALL, tmp_path / "again", workers=2)
    assert digests(again) == digests(small_root)


def test_another_seed_gives_another_data_set(tmp_path):
    one = digests(render_dataset(TINY, tmp_path / "one", workers=1))
    other = digests(render_dataset(dataclasses.replace(TINY, seed=1), tmp_path / "other", workers=1))
    assert one.keys() == other.keys()
    assert not set(one.values()) & set(other.values())


def test_a_data_set_with_these_parameters_is_left_alone_and_one_with_others_is_replaced(tmp_path):
    root = render_dataset(TINY, tmp_path / "set", workers=1)
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*")}
    assert render_dataset(TINY, root, workers=1) == root
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*")} == before
    other = dataclasses.replace(TINY, num_classes=4)
    assert read_spec(root) == TINY and not is_rendered(other, root)
    render_dataset(other, root, workers=1)
    assert read_spec(root) == other and is_rendered(other, root)
    assert len(load(root, "val")["categories"]) == 4
    assert not leftovers(root)


@pytest.mark.parametrize(
    "victim",
    ["annotations/rendered_val.json", "spec.json.version", "train/000000000001.jpg"],
)
def test_a_damaged_data_set_is_made_again(tmp_path, victim):
    root = render_dataset(TINY, tmp_path / "set", workers=1)
    whole = digests(root)
    if victim == "spec.json.version":
        document = json.loads((root / "spec.json").read_text())
        (root / "spec.json").write_text(json.dumps({**document, "version": 0}))
    else:
        (root / victim).unlink()
    assert not is_rendered(TINY, root)
    assert digests(render_dataset(TINY, root, workers=1)) == whole


@pytest.mark.parametrize("name", ["annotations/rendered_train.json", "train/000000000001.jpg"])
def test_a_data_set_that_lost_contents_is_made_again(tmp_path, name):
    root = render_dataset(TINY, tmp_path / "set", workers=1)
    whole, path = digests(root), root / name
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"id":1,', b'"id":9,', 1) if name.endswith("json") else b"")
    assert path.read_bytes() != content
    assert not is_rendered(TINY, root)
    assert digests(render_dataset(TINY, root, workers=1)) == whole


def test_a_build_that_fails_leaves_the_old_data_set_and_no_remains(tmp_path, monkeypatch):
    root = render_dataset(TINY, tmp_path / "set", workers=1)

    def fail(drawn, folder):
        raise OSError("disk full")

    monkeypatch.setattr(disk, "save_image", fail)
    with pytest.raises(OSError, match="disk full"):
        render_dataset(dataclasses.replace(TINY, seed=1), root, workers=1)
    assert is_rendered(TINY, root) and not leftovers(root)


def test_a_build_killed_half_way_is_not_taken_for_whole_and_the_next_one_finishes(tmp_path):
    root, spec = tmp_path / "set", dataclasses.replace(TINY, train_images=5000)
    code = f"from balanced_lvis.data.rendered import *; render_dataset({spec!r}, {str(root)!r}, workers=2)"
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("set.partial-*/train/*.jpg")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert leftovers(root) and not root.exists()
    assert not is_rendered(spec, root)
    assert not any(is_rendered(spec, tmp_path / name) for name in leftovers(root))
    time.sleep(1.2)  # until its workers have noticed
    render_dataset(TINY, root, workers=1)
    assert is_rendered(TINY, root) and not leftovers(root)


def test_two_processes_at_once_make_one_data_set(tmp_path):
    import multiprocessing

    spec, context = dataclasses.replace(TINY, train_images=30), multiprocessing.get_context("fork")
    builders = [context.Process(target=render_dataset, args=(spec, tmp_path / "set", 1)) for _ in range(3)]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join(60)
    assert [b.exitcode for b in builders] == [0, 0, 0]
    assert is_rendered(spec, tmp_path / "set") and not leftovers(tmp_path / "set")


def test_a_folder_with_other_contents_is_refused_and_kept(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("precious")
    with pytest.raises(InputError, match="root is .*thesis"):
        render_dataset(TINY, tmp_path / "thesis", workers=1)
    with pytest.raises(InputError, match=r"root is .*chapter1\.tex"):
        render_dataset(TINY, tmp_path / "thesis" / "chapter1.tex", workers=1)
    assert (tmp_path / "thesis" / "chapter1.tex").read_text() == "precious"


def test_a_rendered_folder_with_additions_is_used_but_never_replaced(tmp_path):
    root = render_dataset(TINY, tmp_path / "set", workers=1)
    (root / "notes.txt").write_text("precious")
    assert render_dataset(TINY, root, workers=1) == root
    with pytest.raises(InputError, match=r"notes\.txt"):
        render_dataset(dataclasses.replace(TINY, seed=1), root, workers=1)
    assert (root / "notes.txt").exists() and is_rendered(TINY, root)


def test_an_empty_folder_and_missing_parents_are_fine(tmp_path):
    (tmp_path / "empty").mkdir()
    for root in (tmp_path / "empty", tmp_path / "a" / "b"):
        assert is_rendered(TINY, render_dataset(TINY, root, workers=1))


@pytest.mark.parametrize(
    "name, value",
    [
        ("num_classes", 0),
        ("num_classes", 1204),
        ("num_classes", 2.5),
        ("train_images", 0),
        ("val_images", -1),
        ("test_images", True),
        ("image_size", 47),
        ("image_size", (128, 40)),
        ("image_size", (128, 128, 3)),
        ("image_size", "128"),
        ("objects_per_image", 0),
        ("objects_per_image", 21),
        ("object_scale", (0.5, 0.2)),
        ("object_scale", 0.3),
        ("object_scale", (0.01, 0.2)),
        ("object_scale", ("a", "b")),
        ("seed", -1),
        ("seed", None),
    ],
)
def test_a_bad_parameter_is_named_with_its_value(name, value):
    with pytest.raises(InputError, match=f"{name} is .*{str(value)[:4].strip('()')}"):
        RenderedSpec(**{name: value})


def test_a_bad_number_of_workers_split_or_classes_is_named(tmp_path):
    with pytest.raises(InputError, match="workers is 0"):
        render_dataset(TINY, tmp_path / "set", workers=0)
    with pytest.raises(InputError, match="split is 'test'"):
        annotation_file(tmp_path, "test")
    with pytest.raises(InputError, match="num_classes is 2000"):
        alphabet(2000)


def test_equal_parameters_make_equal_specs():
    assert RenderedSpec(image_size=128) == RenderedSpec(image_size=[128, np.int64(128)]) == RenderedSpec()
    assert repr(RenderedSpec(image_size=[128, np.int64(128)])) == repr(RenderedSpec())


def test_a_folder_without_a_data_set_has_no_spec(tmp_path):
    assert read_spec(tmp_path) is None
    assert not is_rendered(TINY, tmp_path / "nowhere")
