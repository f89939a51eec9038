"""A LazyConfig is trained, resumed and evaluated as the yaml config of the same model."""

import copy
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks
from detectron2.utils.env import seed_all_rng

from balanced_lvis import Predictor
from balanced_lvis.activations import activation_names, base
from balanced_lvis.calibration import NorCal
from balanced_lvis.commands.train import main
from balanced_lvis.config import load_config
from balanced_lvis.data.config_datasets import prepare_rendered, resolve_num_classes
from balanced_lvis.data.dataset_records import choose_records
from balanced_lvis.data.loader import build_loss_loader
from balanced_lvis.data.mapper import build_mapper
from balanced_lvis.engine.checkpoints.checkpointer import Checkpointer
from balanced_lvis.engine.trainer import Trainer
from balanced_lvis.engine.validation_losses import ValidationLosses
from balanced_lvis.utils.errors import Preempted
from tests.common import CONFIGS, ROOT, rendered_opts
from tests.engine.resuming import assert_resumed_equals, continue_from, train_recorded

SMALL = Path(__file__).with_name("small.py")
ITERATIONS, STOP = 5, 3


def lazy_cfg(root, output, *overrides):
    words = (f"engine.DATASETS.RENDERED.ROOT={root}", f"train.output_dir={output}", f"train.max_iter={ITERATIONS}")
    return load_config(SMALL, [*words, *overrides])


def yaml_cfg(root, output, **options):
    cfg = load_config(CONFIGS / "quick_start" / "balanced_sigmoid.yaml", rendered_opts(root, output))
    pairs = {"SOLVER.MAX_ITER": ITERATIONS, "SEED": 5, **options}
    cfg.merge_from_list([item for pair in pairs.items() for item in pair])
    return cfg


def train(cfg, resume=False):
    seed_all_rng(cfg.SEED)  # for the initial weights
    return train_recorded(cfg, resume)


@pytest.fixture(scope="module")
def weights(rendered, tmp_path_factory):
    """The initial weights of both runs. Their models draw different random numbers when they are built."""
    path = tmp_path_factory.mktemp("weights") / "weights.pth"
    model = Trainer.build_model(yaml_cfg(rendered, "unused"))
    torch.save({"model": model.state_dict()}, path)
    return path


def test_losses_weights_and_results_are_those_of_the_yaml_config(rendered, weights, tmp_path):
    by_yaml, by_lazy = tmp_path / "yaml", tmp_path / "lazy"
    options = {"MODEL.WEIGHTS": str(weights), "SOLVER.WARMUP_ITERS": 1, "SOLVER.MAX_ITER": 4}
    expected = train(yaml_cfg(rendered, by_yaml, **options))
    found = train(lazy_cfg(rendered, by_lazy, f"train.init_checkpoint={weights}", "train.max_iter=4"))
    assert_resumed_equals(found, expected, 0)
    assert found[0].shape[0] == 4
    assert results(by_lazy) == results(by_yaml)


def results(folder):
    """As text, because NaN is not equal to itself."""
    return (folder / "results.json").read_text()


def test_validation_losses_are_those_of_the_yaml_config(rendered, weights, tmp_path):
    found = []
    for cfg in (
        yaml_cfg(rendered, tmp_path, **{"TEST.LOSS_IMAGES": 3}),
        lazy_cfg(rendered, tmp_path, "engine.TEST.LOSS_IMAGES=3"),
    ):
        trainer = Trainer(cfg)
        Checkpointer(trainer.model).load(str(weights))
        found.append(ValidationLosses(cfg, trainer.step)())
    assert found[0] == found[1]
    assert {"validation/loss_cls", "validation/loss_mask", "validation/total_loss"} <= found[1].keys()


def test_validation_losses_have_masks_and_keypoints_as_in_training(rendered, tmp_path):
    mapper = "dataloader.train.mapper"
    cfg = lazy_cfg(rendered, tmp_path, f"{mapper}.instance_mask_format=bitmask", f"{mapper}.use_keypoint=True")
    prepare_rendered(cfg)
    records = copy.deepcopy(choose_records("rendered_val", 2))
    for record in records:
        for one in record["annotations"]:
            one["keypoints"] = [10.0, 12.0, 2.0]
    loaded = [one["instances"] for batch in build_loss_loader(cfg, "rendered_val", records) for one in batch]
    assert len(loaded) == 2
    assert all(isinstance(one.gt_masks, BitMasks) and len(one.gt_keypoints) for one in loaded)


def test_records_without_masks_have_none(rendered, tmp_path):
    cfg = lazy_cfg(rendered, tmp_path)
    assert [build_mapper(cfg, True, masks).use_instance_mask for masks in (True, False)] == [True, False]


def test_options_of_tests_and_of_weights_and_biases_can_be_set(rendered, tmp_path):
    words = ("engine.TEST.SAMPLE_IMAGES=2", "engine.TEST.DETECTIONS_PER_CATEGORY=10000", "engine.WANDB.PROJECT=birds")
    cfg = lazy_cfg(rendered, tmp_path, *words)
    assert (cfg.TEST.SAMPLE_IMAGES, cfg.TEST.DETECTIONS_PER_CATEGORY, cfg.WANDB.PROJECT) == (2, 10000, "birds")


def test_a_resumed_run_is_bit_identical_to_an_uninterrupted_one(rendered, tmp_path):
    options = ("dataloader.test.dataset.names=[]", f"train.checkpointer.period={STOP}")
    whole = train(lazy_cfg(rendered, tmp_path, *options))
    continue_from(tmp_path, STOP - 1)
    torch.rand(11)  # any use of random numbers
    assert_resumed_equals(train(lazy_cfg(rendered, tmp_path, *options), resume=True), whole, STOP)


@pytest.fixture
def words(rendered, tmp_path):
    """The command line of a short run into ``tmp_path``, without ``--config-file``."""
    paths = (f"engine.DATASETS.RENDERED.ROOT={rendered}", f"train.output_dir={tmp_path}")
    return [*paths, f"train.max_iter={ITERATIONS}", f"train.checkpointer.period={STOP}"]


def test_the_command_trains_stops_resumes_evaluates_and_predicts(words, tmp_path, monkeypatch):
    """With the habits of yaml configs: signals, --resume, --eval-only, and the config in the output folder."""
    config = ["--config-file", str(SMALL)]
    with monkeypatch.context() as patch, pytest.raises(Preempted):
        run_step = Trainer.run_step
        patch.setattr(Trainer, "run_step", lambda self: (os.kill(os.getpid(), signal.SIGTERM), run_step(self)))
        main([*config, *words])
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000000.pth"
    assert main([*config, "--resume", *words]) == 0
    assert {"class_prior.json", "config.yaml", "environment.txt", "lazy_config.yaml", "log.txt", "metrics.json",
            "model_final.pth", "results.json"} <= {path.name for path in tmp_path.iterdir()}  # fmt: skip
    assert "BalancedSigmoid" in (tmp_path / "lazy_config.yaml").read_text()

    weights = tmp_path / "model_final.pth"
    assert main([*config, "--eval-only", *words, f"train.init_checkpoint={weights}"]) == 0
    assert results(tmp_path / "evaluation") == results(tmp_path)
    assert {"AP", "APr", "APc", "APf"} <= json.loads(results(tmp_path))["segm"].keys()
    # The saved config is a yaml config, which finds the LazyConfig.
    again = ["--config-file", str(tmp_path / "config.yaml"), "--eval-only", "OUTPUT_DIR", str(tmp_path / "again")]
    assert main([*again, "MODEL.WEIGHTS", str(weights)]) == 0
    assert results(tmp_path / "again" / "evaluation") == results(tmp_path)

    predictor = Predictor.from_checkpoint(weights, threshold=0.0)
    found = predictor(np.full((80, 90, 3), 128, np.uint8), channels="RGB")
    assert len(predictor.class_names) == 12 and found.pred_masks.shape[1:] == (80, 90)


def test_a_checkpoint_of_another_activation_is_refused(words, tmp_path, capsys):
    cfg = load_config(SMALL, words)
    train(cfg)
    content = torch.load(tmp_path / "model_final.pth", weights_only=True)
    content["balanced_lvis"]["family"] = "softmax"
    torch.save(content, tmp_path / "other.pth")
    config = ["--config-file", str(SMALL), "--eval-only"]
    assert main([*config, *words, f"train.init_checkpoint={tmp_path / 'other.pth'}"]) == 2
    assert "softmax" in capsys.readouterr().err


def test_settings_that_commands_change_reach_the_model(rendered, tmp_path):
    cfg = lazy_cfg(rendered, tmp_path)
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST, cfg.TEST.DETECTIONS_PER_IMAGE, cfg.TEST.MASK_THRESHOLD = 0.25, 7, 0.4
    cfg.MODEL.ROI_BOX_HEAD.CALIBRATION.NAME = "norcal"
    heads = Trainer.build_model(cfg).roi_heads
    assert (heads.box_predictor.test_score_thresh, heads.box_predictor.test_topk_per_image) == (0.25, 7)
    assert heads.mask_threshold == 0.4 and isinstance(heads.box_predictor.calibration, NorCal)
    assert heads.box_predictor.activation.prior.num_classes == 12


def test_the_number_of_classes_can_be_inferred(rendered, tmp_path):
    cfg = lazy_cfg(rendered, tmp_path, "model.roi_heads.num_classes=0")
    resolve_num_classes(cfg)
    assert Trainer.build_model(cfg).roi_heads.box_predictor.activation.num_outputs == 13


def with_own_activation(folder) -> Path:
    """The small config with an activation that its file registers."""
    (folder / "small.py").write_text(SMALL.read_text())
    (folder / "own.py").write_text(
        "from balanced_lvis.activations import Sigmoid, activation_names, register_activation\n"
        "from detectron2.config import LazyCall as L\n"
        "from .small import dataloader, engine, lr_multiplier, model, optimizer, train\n"
        "class Own(Sigmoid):\n"
        "    def __init__(self, num_classes, prior=None, background=True, *, own_option: float = 1.0):\n"
        "        super().__init__(num_classes, prior, background)\n"
        "if 'own' not in activation_names():\n"
        "    register_activation('own')(Own)\n"
        "from balanced_lvis.activations import activation_class\n"
        "model.roi_heads.box_predictor.activation = L(activation_class('own'))(num_classes=12, own_option=2.0)\n"
    )
    return folder / "own.py"


@pytest.mark.slow
def test_two_processes_train_with_an_activation_of_the_file(words, tmp_path, monkeypatch):
    """Each process runs the file, and so do commands that read the saved config."""
    monkeypatch.setattr(base._ACTIVATIONS, "_classes", dict(base._ACTIVATIONS._classes))
    config = with_own_activation(tmp_path)
    command = [sys.executable, ROOT / "tools" / "train_net.py", "--config-file", config, "--num-gpus", "2", *words]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "model_final.pth").exists() and "segm" in json.loads(results(tmp_path))
    assert "own" not in activation_names()  # not in this process, before the file runs
    cfg = load_config(tmp_path / "config.yaml")
    assert (cfg.MODEL.ROI_BOX_HEAD.ACTIVATION.NAME, cfg.MODEL.ROI_BOX_HEAD.ACTIVATION.OWN.OWN_OPTION) == ("own", 2.0)
