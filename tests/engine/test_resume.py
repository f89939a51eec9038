"""An interrupted run is bit-identical to an uninterrupted one."""

import json
import os
import signal

import pytest
import torch
from detectron2.utils.env import seed_all_rng

from balanced_lvis.config import load_config
from balanced_lvis.console.preemption import StopRequest
from balanced_lvis.engine.trainer import Trainer
from balanced_lvis.utils.errors import Preempted
from tests.common import CONFIGS, rendered_opts
from tests.engine.resuming import assert_resumed_equals, continue_from, train_recorded

ITERATIONS, STOP = 7, 4


def cfg_of(name, root, output, **options):
    pairs = {"SOLVER.MAX_ITER": ITERATIONS, "TEST.EVAL_PERIOD": 0, "DATASETS.TEST": (), "SEED": 5, **options}
    cfg = load_config(CONFIGS / name, rendered_opts(root, output))
    cfg.merge_from_list([item for pair in pairs.items() for item in pair])
    return cfg


def lines_of(folder):
    return [json.loads(line)["iteration"] for line in (folder / "metrics.json").read_text().splitlines()]


def test_metrics_that_are_written_again_are_in_the_file_that_lines_were_dropped_from(rendered, tmp_path):
    name, options = "quick_start/balanced_sigmoid.yaml", {"SOLVER.CHECKPOINT_PERIOD": STOP}
    train_recorded(cfg_of(name, rendered, tmp_path, **options))
    before = lines_of(tmp_path)
    assert before == [ITERATIONS - 1]
    (tmp_path / "model_final.pth").unlink()
    train_recorded(cfg_of(name, rendered, tmp_path, **options), resume=True)
    assert lines_of(tmp_path) == before


@pytest.mark.parametrize(
    "options",
    [
        {"DATALOADER.NUM_WORKERS": 0},
        {"DATALOADER.NUM_WORKERS": 2, "DATALOADER.ASPECT_RATIO_GROUPING": True},
        {"DATALOADER.SAMPLER_TRAIN": "ClassAwareTrainingSampler", "SOLVER.ACCUMULATE_BATCHES": 2, "SEED": -1},
    ],
    ids=["plain", "workers and groups", "class-aware, accumulated, without a seed"],
)
def test_a_resumed_run_has_the_losses_and_weights_of_an_undisturbed_one(rendered, tmp_path, options):
    options["SOLVER.CHECKPOINT_PERIOD"] = STOP
    name = "quick_start/balanced_sigmoid.yaml"
    whole = train_recorded(cfg_of(name, rendered, tmp_path, **options))
    continue_from(tmp_path, STOP - 1)
    torch.rand(11)  # any use of random numbers
    assert_resumed_equals(train_recorded(cfg_of(name, rendered, tmp_path, **options), resume=True), whole, STOP)


def evaluations(folder):
    """The results of evaluations in metrics.json by iteration, as text, because NaN is not equal to itself."""
    lines = map(json.loads, (folder / "metrics.json").read_text().splitlines())
    found = [(line["iteration"], {key: repr(line[key]) for key in line if key.endswith("/AP")}) for line in lines]
    return [(iteration, numbers) for iteration, numbers in found if numbers]


def test_an_evaluation_that_a_signal_has_cut_off_is_made_by_the_run_that_goes_on(rendered, tmp_path, monkeypatch):
    """Once, and with the results, losses and weights of an uninterrupted run."""
    name, options = "quick_start/balanced_sigmoid.yaml", {"TEST.EVAL_PERIOD": STOP, "DATASETS.TEST": ("rendered_val",)}
    seed_all_rng(5)  # for the initial weights
    whole = train_recorded(cfg_of(name, rendered, tmp_path / "straight", **options))
    expected = evaluations(tmp_path / "straight")
    assert [iteration for iteration, _ in expected] == [STOP - 1, ITERATIONS]
    cut = tmp_path / "cut"
    with monkeypatch.context() as patch, pytest.raises(Preempted), StopRequest() as stop:
        seed_all_rng(5)
        patch.setattr(Trainer, "build_evaluator", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        train_recorded(cfg_of(name, rendered, cut, **options), stop=stop)
    assert evaluations(cut) == []
    calls = []
    test = Trainer.test.__func__
    monkeypatch.setattr(Trainer, "test", classmethod(lambda *args: calls.append(None) or test(*args)))
    resumed = train_recorded(cfg_of(name, rendered, cut, **options), resume=True)
    assert evaluations(cut) == expected and len(calls) == 2
    assert_resumed_equals(resumed, whole, STOP)
    continue_from(cut, STOP - 1)
    train_recorded(cfg_of(name, rendered, cut, **options), resume=True)
    assert evaluations(cut) == expected and len(calls) == 3


def test_one_seed_gives_one_run_and_another_seed_another(rendered, tmp_path):
    """Includes data order, augmentation, initialization and sampling of proposals."""
    name = "quick_start/balanced_sigmoid.yaml"
    options = {"SOLVER.MAX_ITER": 2, "INPUT.MIN_SIZE_TRAIN": (64, 96)}
    found = []
    for run, seed in enumerate((5, 5, 6)):
        cfg = cfg_of(name, rendered, tmp_path / str(run), **{**options, "SEED": seed})
        seed_all_rng(seed)
        losses, weights = train_recorded(cfg)
        found.append((losses, torch.cat([weight.double().flatten() for weight in weights.values()])))
    assert all(map(torch.equal, found[0], found[1]))
    assert not any(map(torch.equal, found[0], found[2]))
