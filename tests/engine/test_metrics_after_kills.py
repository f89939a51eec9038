"""``metrics.json`` of a run that is killed anywhere and resumed equals that of an uninterrupted run."""

import errno
import itertools
import json
import os
import random
import signal
import time
from types import SimpleNamespace

import pytest
from detectron2.engine import train_loop

from balanced_lvis.config import load_config
from balanced_lvis.engine import metrics_file
from balanced_lvis.engine.checkpoints import saving
from balanced_lvis.engine.trainer import Trainer
from balanced_lvis.utils.errors import StorageError
from tests import programs
from tests.common import CONFIGS
from tests.engine.test_run import command_of
from tests.engine.toy import Toy, batches

ITERATIONS = 45
PERIODS = [(5, 12), (7, 6), (10, 20), (20, 3), (3, 0), (50, 40), (45, 45), (1, 15)]


class KilledError(BaseException):
    """Stands for SIGKILL: no hook runs after it."""


class Places:
    """Counts the places where a kill makes a difference, and kills at place ``kill_at``."""

    def __init__(self, kill_at=None):
        self.passed, self.kill_at = 0, kill_at

    def around(self, function):
        def call(*args, **kwargs):
            self.pass_one()
            result = function(*args, **kwargs)
            self.pass_one()
            return result

        return call

    def pass_one(self):
        self.passed += 1
        if self.passed == self.kill_at:
            raise KilledError

    @property
    def has_killed(self):
        return self.kill_at is not None and self.passed >= self.kill_at


class Loader:
    """Yields batches that depend only on the number of the iteration."""

    def __init__(self):
        self.start = 0
        self.broken = SimpleNamespace(share=lambda: None, found={})

    def __iter__(self):
        return (batches(seed)[0] for seed in itertools.count(self.start))

    def state_dict(self, done):
        return {"start": self.start + done}

    def load_state_dict(self, state):
        self.start = state["start"]


class ToyTrainer(Trainer):
    """The real hooks and checkpoints with a toy model and images."""

    places = Places()

    def __init__(self, cfg):
        super().__init__(cfg)
        for hook in self._hooks:
            for name in ("before_train", "after_step"):
                setattr(hook, name, self.places.around(getattr(hook, name)))

    @classmethod
    def build_model(cls, cfg):
        return Toy()

    @classmethod
    def build_train_loader(cls, cfg):
        return Loader()

    @classmethod
    def test(cls, cfg, model, evaluators=None):
        cls.places.pass_one()
        return {"bbox": {"AP": float(model.linear.weight.detach().double().sum()), "APr": float("nan")}}

    def build_writers(self):
        return [writer for writer in super().build_writers() if isinstance(writer, metrics_file.MetricsWriter)]

    def after_train(self):
        if not self.places.has_killed:
            super().after_train()


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A function that trains until the end or a kill, and returns the places passed."""
    monkeypatch.setattr(train_loop.logging.getLogger(train_loop.__name__), "exception", lambda *_: None)
    monkeypatch.setattr(os, "fsync", lambda number: None)  # tests survive no power failure
    for module, name in ((metrics_file, "append"), (metrics_file, "replacing"), (saving, "replacing")):
        function = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args, _call=function, **kwargs: ToyTrainer.places.around(_call)(
            *args, **kwargs))  # fmt: skip

    def train(folder, periods, kill_at=None, resume=True, iterations=ITERATIONS):
        cfg = load_config(CONFIGS / "quick_start" / "balanced_sigmoid.yaml", [
            "SOLVER.MAX_ITER", str(iterations), "SOLVER.CHECKPOINT_PERIOD", str(periods[0]), "TEST.EVAL_PERIOD",
            str(periods[1]), "OUTPUT_DIR", str(tmp_path / folder), "SEED", "5", "MODEL.DEVICE", "cpu",
        ])  # fmt: skip
        (tmp_path / folder).mkdir(exist_ok=True)
        monkeypatch.setattr(ToyTrainer, "places", Places(kill_at))
        trainer = None
        try:
            trainer = ToyTrainer(cfg)
            trainer.resume_or_load(resume=resume)
            trainer.train()
        except KilledError:
            pass
        return ToyTrainer.places

    return train


def lines(folder):
    """The lines of metrics.json without timings and the medians of losses, which restart; AP depends on the weights."""
    found = []
    for line in map(json.loads, (folder / "metrics.json").read_text().splitlines()):
        numbers = {name: repr(line[name]) for name in line if name.startswith(("bbox", "lr"))}
        found.append((line["iteration"], "total_loss" in line, numbers))
    return found


def evaluated(folder):
    return [iteration for iteration, _, numbers in lines(folder) if "bbox/AP" in numbers]


def logged(folder):
    return [iteration for iteration, is_logged, _ in lines(folder) if is_logged]


@pytest.mark.parametrize("periods", PERIODS)
def test_each_line_and_each_evaluation_stands_once_whenever_the_run_is_killed(run, tmp_path, periods):
    places = run("straight", periods).passed
    expected = lines(tmp_path / "straight")
    between = range(periods[1] - 1, ITERATIONS - 1, periods[1]) if periods[1] else ()
    assert evaluated(tmp_path / "straight") == [*between, ITERATIONS]
    assert logged(tmp_path / "straight") == [19, 39, 44]
    rng = random.Random(f"{periods}")
    for trial in range(4):
        folder = f"killed {trial}"
        kills = 0
        while run(folder, periods, rng.randrange(1, places)).has_killed:
            kills += 1
        assert kills or trial
        assert lines(tmp_path / folder) == expected, (periods, trial)


def test_a_run_that_is_resumed_at_its_end_has_its_last_evaluation_at_the_same_iteration(run, tmp_path):
    run("run", (5, 12), iterations=30)
    assert evaluated(tmp_path / "run") == [11, 23, 30]
    for _ in range(2):
        run("run", (5, 12), iterations=30)
        assert evaluated(tmp_path / "run") == [11, 23, 30]
    run("run", (5, 12), iterations=20)  # fewer than were made
    assert evaluated(tmp_path / "run") == [11, 23, 30]


def test_a_run_that_goes_further_than_it_was_to_keeps_what_an_undisturbed_one_has(run, tmp_path):
    run("run", (5, 12), iterations=30)
    run("run", (5, 12))
    run("straight", (5, 12))
    assert evaluated(tmp_path / "run") == evaluated(tmp_path / "straight") == [11, 23, 35, ITERATIONS]
    assert logged(tmp_path / "run") == [19, 29, 39, 44]  # 29 was the last iteration


def test_a_new_run_in_the_folder_of_another_has_metrics_of_its_own(run, tmp_path):
    """Otherwise, an evaluation of the earlier run would replace an interrupted one."""
    run("run", (10, 4))
    earlier = (tmp_path / "run" / "metrics.json").read_text()
    run("run", (10, 20), resume=False)
    assert evaluated(tmp_path / "run") == [19, 39, ITERATIONS]
    assert (tmp_path / "run" / "metrics.previous.json").read_text() == earlier


def test_a_run_that_fails_after_its_last_iteration_is_not_evaluated_and_writes_no_line_more(run, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(saving, "replacing", fail)
    with pytest.raises(StorageError, match="the disk is full"):
        run("run", (50, 0))
    assert evaluated(tmp_path / "run") == [] and logged(tmp_path / "run") == [19, 39, 44]


def test_a_finished_run_whose_restart_fails_before_the_first_step_is_not_evaluated_again(run, monkeypatch):
    def fail(*args):
        raise StorageError("the disk is full")

    run("run", (5, 12), iterations=30)
    monkeypatch.setattr(saving, "check_space", fail)
    monkeypatch.setattr(ToyTrainer, "test", lambda *args: pytest.fail("evaluated"))
    with pytest.raises(StorageError, match="the disk is full"):
        run("run", (5, 12), iterations=30)


@pytest.mark.slow
def test_an_evaluation_before_the_checkpoint_of_a_killed_run_is_on_record(rendered, tmp_path):
    """SIGKILL after iteration 24; checkpoints every 5 iterations, evaluations every 12, lines every 20."""
    options = {"SOLVER__MAX_ITER": 30, "SOLVER__CHECKPOINT_PERIOD": 5, "TEST__EVAL_PERIOD": 12, "SEED": 5}
    command = command_of(rendered, tmp_path, "--resume", **options)[1:]
    with programs.Program(*command) as process:
        while process.poll() is None and not (tmp_path / "model_0000024.pth").exists():
            time.sleep(0.002)
    assert process.returncode == -signal.SIGKILL
    assert evaluated(tmp_path) == [11, 23]
    assert programs.run(*command).returncode == 0
    assert evaluated(tmp_path) == [11, 23, 30]
    assert logged(tmp_path) == [19, 29]
