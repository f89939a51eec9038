"""One file and one yaml from outside the package add a method."""

import json
import os
import subprocess
import sys

import pytest
import yaml

from tests.common import ROOT, rendered_opts

MODULE = '''
"""Sigmoids on logits that are divided by a temperature in training."""

from balanced_lvis.activations import Sigmoid, register_activation


@register_activation("tempered")
class Tempered(Sigmoid):
    def __init__(self, num_classes, prior=None, *, temperature: float = 2.0, prior_probability: float = 0.001):
        super().__init__(num_classes, prior, prior_probability=prior_probability)
        print("temperature", temperature, flush=True)
        self.temperature = temperature

    def loss(self, logits, gt_classes, roi_weight=None):
        return super().loss(logits / self.temperature, gt_classes, roi_weight)
'''
CONFIG = """
_BASE_: "base/rendered"
IMPORTS: ("my_package.tempered",)
MODEL:
  ROI_BOX_HEAD:
    ACTIVATION:
      NAME: "tempered"
      TEMPERED:
        TEMPERATURE: 3.0
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The current folder of a user with one module and one yaml."""
    folder = tmp_path_factory.mktemp("outside")
    (folder / "my_package").mkdir()
    (folder / "my_package" / "tempered.py").write_text(MODULE)
    (folder / "tempered.yaml").write_text(CONFIG)
    return folder


def tool(folder, name, *words) -> str:
    command = [sys.executable, ROOT / "tools" / name, *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*map(str, command)], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def test_a_method_is_one_file_and_one_yaml(folder, rendered):
    """It trains on two processes and resumes; the saved config evaluates, predicts and exports."""
    opts = [*rendered_opts(rendered, "out"), "SOLVER.CHECKPOINT_PERIOD", "2"]
    train = ["train_net.py", "--config-file", "tempered.yaml"]
    printed = tool(folder, *train, "--num-gpus", "2", *opts, "SOLVER.MAX_ITER", "2")
    assert printed.count("temperature 3.0") >= 2  # in both processes
    saved = yaml.safe_load((folder / "out" / "config.yaml").read_text())
    assert saved["IMPORTS"] == ["my_package.tempered"]
    assert saved["MODEL"]["ROI_BOX_HEAD"]["ACTIVATION"]["TEMPERED"]["TEMPERATURE"] == 3.0
    tool(folder, *train, "--resume", *opts, "SOLVER.MAX_ITER", "3")
    iterations = [json.loads(line)["iteration"] for line in (folder / "out" / "metrics.json").read_text().splitlines()]
    assert max(iterations) >= 2 and len(set(iterations)) == len(iterations)
    weights = "out/model_final.pth"
    tool(folder, "train_net.py", "--config-file", "out/config.yaml", "--eval-only", "MODEL.WEIGHTS", weights)
    evaluated = json.loads((folder / "out" / "evaluation" / "results.json").read_text())
    assert evaluated == json.loads((folder / "out" / "results.json").read_text())
    image = next(rendered.rglob("*.jpg"))
    tool(folder, "predict.py", "--weights", weights, "--input", image, "--json", "found.json", "--threshold", "0")
    assert len(json.loads((folder / "found.json").read_text())) == 1
    export = ["export_submission.py", "--config-file", "out/config.yaml", "--dataset", "rendered_test_dev"]
    tool(folder, *export, "--output", "submission", "--num-gpus", "2", "MODEL.WEIGHTS", weights)
    assert (folder / "submission" / "rendered_test_dev_segm.json").is_file()
