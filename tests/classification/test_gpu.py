"""
Image classification on a GPU. Run with: pytest -m gpu

On a machine without a GPU, tests/simulated_cuda/test_gpu_tests.py runs these tests on a simulated one.
"""

import json

import pytest
import torch

from balanced_lvis.classification import evaluate, train
from balanced_lvis.classification.checkpoints import read_checkpoint
from balanced_lvis.classification.methods import METHODS
from tests.classification.made import characters_config

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def config(method, tmp_path, **overrides):
    return characters_config(
        method, tmp_path / "cache", tmp_path / method, MODEL__DEVICE="cuda", SOLVER__MAX_ITER=3, **overrides
    )


@pytest.mark.parametrize("method", METHODS)
def test_a_method_trains_resumes_and_is_evaluated(method, tmp_path):
    overrides = {"MODEL__ACTIVATION__LDAM__DRW_START": 1} if method == "ldam_drw" else {}
    if METHODS[method].first_stage:
        train(config(METHODS[method].first_stage, tmp_path))
        overrides["MODEL__WEIGHTS"] = tmp_path / METHODS[method].first_stage / "model_final.pth"
    cfg = config(method, tmp_path, **overrides)
    results = evaluate(cfg) if METHODS[method].evaluates_only else train(cfg)
    assert sum(results["marginal"]) == pytest.approx(1)
    if not METHODS[method].evaluates_only:
        assert train(cfg, resume=True) == results == json.loads((tmp_path / method / "results.json").read_text())
        weights = read_checkpoint(tmp_path / method / "model_final.pth")["model"]
        assert all(value.device.type == "cpu" for value in weights.values())  # readable on any machine
