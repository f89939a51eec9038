"""Metrics and images in Weights & Biases: a stand-in for the package records what it is given."""

import importlib.machinery
import importlib.util
import os
import sys
import types

import numpy as np
import pytest
import yaml
from detectron2.utils.events import EventStorage

from balanced_lvis.engine.config_checks import check_config
from balanced_lvis.engine.trainer import Trainer
from balanced_lvis.engine.wandb_writer import WandbWriter, check_wandb
from balanced_lvis.utils.errors import DivergedError, InputError, Preempted
from tests.engine.test_ema import trained


class Recorded:
    """The run of the stand-in."""

    def __init__(self, **options):
        self.options, self.logged, self.metrics, self.exit_code = options, [], [], None

    def define_metric(self, name, step_metric=None):
        self.metrics.append((name, step_metric))

    def log(self, numbers):
        self.logged.append(numbers)

    def finish(self, exit_code):
        self.exit_code = exit_code


@pytest.fixture
def wandb(monkeypatch):
    module = types.ModuleType("wandb")
    module.__spec__ = importlib.machinery.ModuleSpec("wandb", None, origin="stand-in")
    module.Error = type("Error", (Exception,), {})
    module.Settings = dict
    module.Image = np.asarray
    module.runs = []

    def init(**options):
        module.runs.append(Recorded(**options))
        return module.runs[-1]

    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def test_metrics_evaluations_and_samples_of_a_run_are_written_and_a_resumed_run_continues(tiny_cfg, wandb):
    tiny_cfg.merge_from_list(["WANDB.PROJECT", "tail", "TEST.EVAL_PERIOD", 2, "TEST.SAMPLE_IMAGES", 1])
    tiny_cfg.merge_from_list(["SOLVER.CHECKPOINT_PERIOD", 2, "TEST.LOSS_IMAGES", 2])
    trainer = trained(tiny_cfg)
    (run,) = wandb.runs
    assert run.options["project"] == "tail" and run.options["name"] == "out" and run.options["entity"] is None
    assert run.options["id"] == trainer.run_id and run.options["resume"] == "allow"
    assert run.options["config"] == yaml.safe_load(tiny_cfg.dump())
    assert run.metrics == [("iteration", None), ("*", "iteration")] and run.exit_code == 0
    by_iteration = {}
    for numbers in run.logged:
        assert not by_iteration.get(numbers["iteration"], {}).keys() & numbers.keys() - {"iteration"}, "written once"
        by_iteration.setdefault(numbers["iteration"], {}).update(numbers)
    assert sorted(by_iteration) == [1, 3, 4]
    (sample,) = [name for name in by_iteration[1] if name.startswith("samples/")]
    assert by_iteration[1][sample].ndim == 3 and by_iteration[1][sample].shape[2] == 3
    assert {"bbox/AP", "validation/loss_cls"} <= by_iteration[1].keys()
    assert "total_loss" in by_iteration[3]

    os.remove(os.path.join(tiny_cfg.OUTPUT_DIR, "model_final.pth"))
    with open(os.path.join(tiny_cfg.OUTPUT_DIR, "last_checkpoint"), "w", encoding="utf-8") as file:
        file.write("model_0000001.pth")
    trained(tiny_cfg, resume=True)
    assert wandb.runs[1].options["id"] == run.options["id"]


def test_it_is_not_used_unless_the_config_asks_for_it(tiny_cfg, wandb):
    tiny_cfg.SOLVER.MAX_ITER = 1
    trained(tiny_cfg)
    assert wandb.runs == []


def test_a_package_that_is_not_installed_is_named_before_anything_is_built(tiny_cfg, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    check_wandb(tiny_cfg)
    tiny_cfg.WANDB.PROJECT = "tail"
    with pytest.raises(InputError, match=r"WANDB.PROJECT is 'tail', but the package wandb is not installed; .*pip"):
        check_config(tiny_cfg, 1, evaluation_only=False)
    check_config(tiny_cfg, 1, evaluation_only=True)


def test_a_plain_folder_is_not_the_package(tiny_cfg, monkeypatch, tmp_path):
    """Such as that of earlier runs, in the current folder."""
    (tmp_path / "wandb").mkdir()
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    tiny_cfg.WANDB.PROJECT = "tail"
    assert importlib.util.find_spec("wandb") is not None
    with pytest.raises(InputError, match="the package wandb is not installed"):
        check_wandb(tiny_cfg)


@pytest.mark.parametrize(
    ("error", "exit_code"), [(RuntimeError("a bug"), 1), (DivergedError("a bug"), 3), (Preempted(), 75)]
)
@pytest.mark.parametrize("is_reachable", [True, False])
def test_a_run_that_fails_is_marked_as_failed_and_ends_by_its_own_error(
    error, exit_code, is_reachable, tiny_cfg, wandb, monkeypatch, package_log
):
    def fail(*_):
        raise error

    def finish(run, exit_code):
        run.exit_code = exit_code
        if not is_reachable:
            raise LookupError("no connection")

    monkeypatch.setattr(Recorded, "finish", finish)
    tiny_cfg.WANDB.PROJECT = "tail"
    trainer = Trainer(tiny_cfg)
    monkeypatch.setattr(trainer.step, "run_step", fail)
    with pytest.raises(type(error)) as raised:
        trainer.train()
    assert raised.value is error and wandb.runs[0].exit_code == exit_code
    assert ("can't end the run: LookupError: no connection" in package_log.text) == (not is_reachable)


def test_a_run_that_cant_start_ends_training_before_its_first_iteration(tiny_cfg, wandb):
    def refuse(**options):
        raise wandb.Error("api_key not configured (no-tty).")

    wandb.init = refuse
    tiny_cfg.WANDB.PROJECT = "tail"
    trainer = Trainer(tiny_cfg)
    with pytest.raises(InputError, match=r"can't start a run: api_key not configured .*`wandb login`"):
        trainer.train()
    assert trainer.iter == 0


def test_the_values_are_those_of_the_storage(tiny_cfg, wandb, tmp_path):
    tiny_cfg.WANDB.merge_from_list(["PROJECT", "tail", "ENTITY", "us", "NAME", "first"])
    writer = WandbWriter(tiny_cfg, lambda: "an id")
    writer.close()  # nothing was opened
    writer.open()
    with EventStorage(5) as storage:
        storage.put_scalars(a=1.5, b=float("nan"), smoothing_hint=False)
        storage.put_image("image", np.zeros((3, 4, 6), np.uint8))
        writer.write()
        storage.clear_images()
        storage.step()
        storage.put_scalar("a", 2.5, smoothing_hint=False)
        writer.write()
    (run,) = wandb.runs
    assert (run.options["entity"], run.options["name"], run.options["id"]) == ("us", "first", "an id")
    first, second = run.logged
    assert first.pop("image").shape == (4, 6, 3) and np.isnan(first.pop("b"))
    assert (first, second) == ({"a": 1.5, "iteration": 5}, {"a": 2.5, "iteration": 6})
