"""Failing writes during a training run: one message, exit status 4, and bit-identical results after resuming."""

import errno
import json
import os
import random
import shutil

import pytest
import torch

from balanced_lvis.utils.io import append, replacing, write_json
from soak.failing_writes import CODES, FailingWrites
from soak.kills import FAILS, KillLoop
from tests.common import CONFIGS
from tests.soak.test_kills import in_a_fresh_process

FAILURES = 5


def write_all(folder):
    """All ways in which this package writes files."""
    shutil.rmtree(folder / "new", ignore_errors=True)
    os.makedirs(folder / "new" / "below")
    write_json(folder / "a.json", {"a": list(range(5000))})
    append(folder / "b.txt", "line\n")
    (folder / "c.txt").write_text("text", encoding="utf-8")
    with replacing(folder / "d.pth", "wb") as file:
        torch.save({"w": torch.ones(9000)}, file)
    os.close(os.open(folder / "e", os.O_WRONLY | os.O_CREAT))


@pytest.mark.parametrize("lasting", [False, True])
def test_each_write_in_turn_fails_and_without_a_failure_the_files_are_whole(tmp_path, lasting):
    counted = FailingWrites(str(tmp_path), 10**9)
    with counted.armed():
        write_all(tmp_path)
    assert not counted.has_failed and counted.count > 15
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": list(range(5000))}
    assert torch.load(tmp_path / "d.pth", weights_only=True)["w"].sum() == 9000
    for number in range(1, counted.count + 1):
        failing = FailingWrites(str(tmp_path), number, errno.EIO, lasting)
        with pytest.raises((OSError, RuntimeError)), failing.armed():
            write_all(tmp_path)
        assert failing.has_failed


def test_reading_other_folders_and_spared_files_do_not_fail(tmp_path):
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    for folder in (inside, outside):
        folder.mkdir()
        (folder / "a").write_text("a")
    with FailingWrites(str(inside), 1, spared=("spared",)).armed():
        assert (inside / "a").read_text() == "a"
        (outside / "b").write_text("b")
        (inside / "spared").write_text("b")
        with pytest.raises(OSError, match="No space left"):
            (inside / "c").write_text("c")


def test_failures_of_every_kind_are_drawn():
    drawn = [FailingWrites.drawn(random.Random(seed), "x") for seed in range(200)]
    assert {one.code for one in drawn} == set(CODES) and {one.lasting for one in drawn} == {False, True}
    assert min(one.number for one in drawn) < 10 and max(one.number for one in drawn) > 1000


def disturbed(folder, seed):
    torch.set_num_threads(1)
    loop = KillLoop(CONFIGS, folder, seed=seed, settings=("evaluation during training",))
    loop.rng.choices = lambda kinds, weights: [FAILS]
    FailingWrites.drawn = classmethod(
        lambda cls, rng, folder, spared: cls(
            folder, rng.randrange(1, 150), rng.choice(CODES), spared=(*spared, "log.txt")
        )
    )
    loop.run_one(at_most=FAILURES)
    return loop.figures.as_json()


@pytest.mark.slow
def test_a_training_whose_writes_fail_again_and_again_ends_as_an_undisturbed_one(tmp_path):
    figures = in_a_fresh_process(disturbed, tmp_path, random.randrange(10**6))
    print(figures)
    assert not figures["failures"], figures
    assert sum(figures["runs_equal_to_undisturbed"].values()) == 1 and figures["failed_writes"] > 1
