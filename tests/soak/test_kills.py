"""Training runs that are killed, also while saving, and whose files are damaged."""

import multiprocessing
import os
import random
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch

from balanced_lvis.data.loader import TrainLoader
from soak.faults import WRITING, Fault, damage
from soak.kills import KillLoop, newest_whole
from soak.training_process import SETTINGS, same
from tests.common import CONFIGS

KILLS = 4  # per training run


def in_a_fresh_process(function, *arguments):
    """A process that has trained must not be forked, because the fork lacks its threads."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def killed(folder):
    torch.set_num_threads(1)
    settings = ("plain", "workers, grouped by shape, repeat factors")
    loop = KillLoop(CONFIGS, folder, seed=int(time.time()), settings=settings)
    for _ in settings:
        loop.run_one(at_most=KILLS)
    return loop.figures.as_json()


@pytest.mark.slow
def test_a_training_that_is_killed_again_and_again_ends_as_an_undisturbed_one(tmp_path):
    """All losses and the final weights, optimizer state and positions are bit-identical."""
    figures = in_a_fresh_process(killed, tmp_path)
    print(figures)
    assert not figures["failures"], figures
    assert figures["kills"] > 1
    assert figures["iterations_lost_at_most_per_kill"] <= figures["checkpoint_period"]


def killed_without_a_position(folder):
    torch.set_num_threads(1)
    loop = KillLoop(CONFIGS, folder, seed=1, settings=("plain",))
    loop._references["plain"] = loop._undisturbed("plain")
    TrainLoader.load_state_dict = lambda loader, state: None
    loop.rng.choices = lambda kinds, weights: [kinds[1]]  # while saving
    Fault.drawn = classmethod(lambda cls, rng: cls("after last_checkpoint", 0, 0))
    loop.run_one()
    return loop.figures.failures


def test_a_broken_promise_is_noticed(tmp_path):
    """A checkpoint without the position in the data stream: the resumed run sees other images."""
    (failure,) = in_a_fresh_process(killed_without_a_position, tmp_path)
    assert "losses of iteration 4 are" in failure
    assert (tmp_path / "failure_1" / "screen.txt").is_file()


def write(folder, *iterations):
    for index, iteration in enumerate(iterations):
        path = folder / f"model_{iteration:07d}.pth"
        torch.save({"w": torch.rand(3000)}, path)
        os.utime(path, (index, index))
    (folder / "last_checkpoint").write_text(path.name)


def test_damages_are_of_every_kind_and_leave_one_checkpoint_whole(tmp_path):
    kinds = Counter()
    for seed in range(60):
        write(tmp_path, 3, 7)
        kind = damage(tmp_path, random.Random(seed))
        kinds[kind] += 1
        assert newest_whole(tmp_path) == (7 if "last_checkpoint" in kind else 3), kind
    assert len(kinds) == 6


def test_a_checkpoint_that_is_damaged_already_is_left_alone(tmp_path):
    for seed in range(30):
        write(tmp_path, 3, 7, 11)
        os.truncate(tmp_path / "model_0000011.pth", 0)
        damage(tmp_path, random.Random(seed))
        assert newest_whole(tmp_path) in (3, 7)


def test_faults_are_drawn_of_every_kind():
    assert {Fault.drawn(random.Random(seed)).place for seed in range(60)} == set(WRITING)


def test_states_are_compared_to_the_last_bit():
    state = {"a": [torch.tensor([1.0]), 2], "b": {"c": (1, "x")}}
    assert same(state, {"a": [torch.tensor([1.0]), 2], "b": {"c": (1, "x")}})
    for other in (
        {"a": [torch.tensor([1.0000001]), 2], "b": {"c": (1, "x")}},
        {"a": [torch.tensor([1.0]), 3], "b": {"c": (1, "x")}},
        {"a": [torch.tensor([1.0]), 2], "b": {}},
        {"a": [1.0, 2], "b": {"c": (1, "x")}},
    ):
        assert not same(state, other)


def test_every_setting_starts_from_one_before_it():
    names = list(SETTINGS)
    for name, setting in SETTINGS.items():
        assert setting.after is None or names.index(setting.after) < names.index(name)
