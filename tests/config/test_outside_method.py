"""One file and one yaml from outside the package add a method."""

import json
import shutil

import pytest
import torch
import yaml

from tests import programs
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
    done = programs.run(ROOT / "tools" / name, *words, cwd=folder)
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


STATEFUL_MODULE = '''
"""K class logits and an objectness pair, with a softmax that is shifted by the log of the objects seen so far."""

import torch
import torch.nn.functional as F

from balanced_lvis.activations import Activation, register_activation


@register_activation("seen_objectness")
class SeenObjectness(Activation):
    family = "softmax"

    def __init__(self, num_classes, prior=None, background=True, *, power: float = 1.0):
        super().__init__(num_classes, prior, background)
        self.power = power
        self.add_state("seen", torch.zeros(num_classes))

    @property
    def num_outputs(self):
        return self.num_classes + 2

    def loss(self, logits, gt_classes, roi_weight=None):
        foreground = gt_classes < self.num_classes
        shifted = self.class_logits(logits) + self.power * (1 + self.seen).log()
        classes = F.log_softmax(shifted, 1).gather(1, (gt_classes * foreground)[:, None])[:, 0]
        objects = F.log_softmax(logits[:, self.num_classes :], 1)
        losses = -torch.where(foreground, objects[:, 1] + classes, objects[:, 0])
        return losses.mean() if roi_weight is None else (losses * roi_weight).mean()

    def observe(self, logits, gt_classes):
        self.seen += F.one_hot(gt_classes, self.num_classes + 1)[:, : self.num_classes].sum(0)

    def scores(self, logits):
        background, foreground = logits[:, self.num_classes :].softmax(1).unbind(1)
        return torch.cat([self.class_logits(logits).softmax(1) * foreground[:, None], background[:, None]], 1)
'''
STATEFUL_CONFIG = """
_BASE_: "rendered/rfs"
IMPORTS: ("seen_objectness",)
MODEL:
  ROI_BOX_HEAD:
    ACTIVATION:
      NAME: "seen_objectness"
      SEEN_OBJECTNESS:
        POWER: 0.5
"""


@pytest.fixture(scope="module")
def stateful(tmp_path_factory):
    """The current folder of a user with a method that has state, outputs of its own and an option."""
    folder = tmp_path_factory.mktemp("stateful")
    (folder / "seen_objectness.py").write_text(STATEFUL_MODULE)
    (folder / "mine.yaml").write_text(STATEFUL_CONFIG)
    return folder


def state_of(path):
    content = torch.load(path, weights_only=True)
    return content["model"], content["iteration"]


def test_a_method_with_state_and_outputs_of_its_own_resumes_as_if_it_had_not_stopped(stateful, rendered):
    opts = ["SOLVER.CHECKPOINT_PERIOD", "2", "SOLVER.MAX_ITER", "4", "DATASETS.TEST", "()"]
    train = ["train_net.py", "--config-file", "mine.yaml"]
    tool(stateful, *train, *rendered_opts(rendered, "whole"), *opts)
    shutil.copytree(stateful / "whole", stateful / "stopped")
    (stateful / "stopped" / "model_final.pth").unlink()
    (stateful / "stopped" / "last_checkpoint").write_text("model_0000001.pth")
    tool(stateful, *train, "--resume", *rendered_opts(rendered, "stopped"), *opts)
    (whole, last), (resumed, _) = (state_of(stateful / name / "model_final.pth") for name in ("whole", "stopped"))
    (early, _) = state_of(stateful / "whole" / "model_0000001.pth")
    assert last == 3 and whole.keys() == resumed.keys()
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    (seen,) = (key for key in whole if key.endswith("seen"))
    assert 0 < early[seen].sum() < whole[seen].sum()
    weight = next(value for key, value in whole.items() if key.endswith("cls_score.weight"))
    assert weight.shape[0] == 12 + 2
    saved = yaml.safe_load((stateful / "whole" / "config.yaml").read_text())
    assert saved["MODEL"]["ROI_BOX_HEAD"]["ACTIVATION"]["SEEN_OBJECTNESS"]["POWER"] == 0.5


def test_it_is_compared_with_a_method_of_the_package(stateful, rendered):
    opts = dict(zip(*[iter(rendered_opts(rendered, "unused"))] * 2))
    del opts["OUTPUT_DIR"]
    opts["SOLVER.MAX_ITER"] = 2
    compare = ["compare.py", "--methods", "rfs", "mine.yaml", "--seeds", "0", "--output", "compared"]
    printed = tool(stateful, *compare, *(word for pair in opts.items() for word in pair))
    table = json.loads((stateful / "compared" / "table.json").read_text())
    assert list(table) == ["rfs", "mine"] and table["mine"]["AP_box"]["difference"]["runs"] != [None]
    assert "| mine " in printed and "2 runs to train and evaluate, 0 already finished" in printed
    # The module can't be imported without the config that names it, and needn't be for the other method.
    again = ["compare.py", "--methods", "rfs", "--seeds", "0", "--output", "compared"]
    assert "0 runs to train" in tool(stateful, *again, *(word for pair in opts.items() for word in pair))
