"""A LazyConfig is trained, resumed and evaluated as the yaml config of the same model."""

import json
from pathlib import Path

import pytest
import torch
from detectron2.utils.env import seed_all_rng

from balanced_lvis.config import load_config
from balanced_lvis.engine.trainer import Trainer
from tests.common import CONFIGS, rendered_opts

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
    """The losses of a run's iterations, and its final weights."""
    seed_all_rng(cfg.SEED)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=resume)
    losses = []
    write = trainer.step._write_numbers
    trainer.step._write_numbers = lambda names, numbers: losses.append(numbers[:, 1:]) or write(names, numbers)
    trainer.train()
    return torch.cat(losses), trainer.checkpointer.model.state_dict()


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
    assert torch.equal(found[0], expected[0]) and found[0].shape[0] == 4
    assert found[1].keys() == expected[1].keys()
    assert all(torch.equal(found[1][key], expected[1][key]) for key in expected[1])
    assert results(by_lazy) == results(by_yaml)


def results(folder):
    return json.dumps(json.loads((folder / "results.json").read_text()))
