"""
Every method on a GPU: training, evaluation, resuming and export. Run with: pytest -m gpu

On a machine without a GPU, tests/simulated_cuda/test_gpu_tests.py runs these tests on a simulated one, with some of the
methods.
"""

import copy
import functools
import json
import os
import runpy
import subprocess
import sys

import pytest
import torch
from detectron2.utils.events import EventStorage

from balanced_lvis.activations import activation_class, activation_names, build_activation
from balanced_lvis.commands.train import argument_parser
from balanced_lvis.config import load_config
from balanced_lvis.engine.run import check, read_config, run
from balanced_lvis.engine.step import TrainingStep
from balanced_lvis.experiments.methods import METHODS
from balanced_lvis.experiments.small_rendered import override_words
from balanced_lvis.modeling.decoupled import ACTIVATION, CLASSIFIER
from balanced_lvis.priors import ClassPrior
from balanced_lvis.utils.random_state import current_states, set_states
from balanced_lvis.utils.run_files import EMA
from gpu_check.exactness import OPTIONS
from tests.common import CONFIGS, ROOT, rendered_opts
from tests.engine.resuming import continue_from

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
IS_SIMULATED = os.environ.get("SIMCUDA") == "1"

FLOAT16 = {"SOLVER.AMP.ENABLED": True, "SOLVER.AMP.DTYPE": "float16"}
BFLOAT16 = {"SOLVER.AMP.ENABLED": True, "SOLVER.AMP.DTYPE": "bfloat16"}
AVERAGE = {"MODEL.EMA.ENABLED": True, "MODEL.EMA.DECAY": 0.9}
ACCUMULATE = {"SOLVER.ACCUMULATE_BATCHES": 2}
CLIP = {"SOLVER.CLIP_GRADIENTS.ENABLED": True, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": "full_model"}
FIRST_STAGES = {
    "rfs": AVERAGE,
    "rfs_softmax": {**FLOAT16, **ACCUMULATE},
    "eql": BFLOAT16,
    "balanced_sigmoid": {**FLOAT16, **AVERAGE, **CLIP},
    "balanced_softmax": {**BFLOAT16, **AVERAGE, **ACCUMULATE},
    "federated": {**FLOAT16, **ACCUMULATE},
    "drop_loss": BFLOAT16,
    "gumbel": BFLOAT16,
    "gol": {**FLOAT16, **AVERAGE},
    "ecm": BFLOAT16,
    "sigmoid_focal": FLOAT16,
    "class_balanced": BFLOAT16,
    "sigmoid_background": {},
    "eqlv2": {**FLOAT16, **AVERAGE, **ACCUMULATE},
    "seesaw": {**BFLOAT16, **AVERAGE},
}
SECOND_STAGES = {
    "crt": {**FLOAT16, **AVERAGE},
    "lws": {**BFLOAT16, **ACCUMULATE},
    "balms": BFLOAT16,
    "decoupled_sigmoid": FLOAT16,
    "decoupled_balanced_sigmoid": {},
    "decoupled_balanced_softmax": AVERAGE,
    "decoupled_loce": {**FLOAT16, **ACCUMULATE},
    "decoupled_acsl": BFLOAT16,
    "decoupled_bacl": AVERAGE,
}


def options(root, output, **overrides) -> list[str]:
    """Of two iterations on the GPU."""
    pairs = {"MODEL.DEVICE": "cuda", "SOLVER.MAX_ITER": 2, "SOLVER.CHECKPOINT_PERIOD": 1, **overrides}
    return [*rendered_opts(root, output), *override_words(pairs)]


def train(config, root, output, *flags, **overrides):
    """A training run in this process; the weights that it ends with."""
    arguments = ["--config-file", str(CONFIGS / config), *flags, *options(root, output, **overrides)]
    args = argument_parser().parse_args(arguments)
    cfg = read_config(args)
    assert cfg.MODEL.DEVICE == "cuda"
    check(cfg, args)
    run(cfg, args)
    return weights_of(output / "model_final.pth")


def weights_of(path) -> dict:
    return torch.load(path, weights_only=True, map_location="cpu")["model"]


def check_results(output, has_average: bool = False):
    """Boxes and masks are evaluated, with the averaged weights too where there are some."""
    for folder in (output, output / EMA) if has_average else (output,):
        assert set(json.loads((folder / "results.json").read_text())) == {"bbox", "segm"}


def check_resuming(config, root, output, weights, **overrides):
    """A run that continues from its first iteration's checkpoint ends with the weights of one that wasn't stopped."""
    continue_from(output, 0)
    resumed = train(config, root, output, "--resume", **{**overrides, "DATASETS.TEST": ()})
    for name, tensor in weights.items():
        if IS_SIMULATED:
            assert torch.equal(resumed[name], tensor), name
        else:  # CUDA's sums vary from run to run, and AdamW's first updates are +-lr for gradients of any size
            torch.testing.assert_close(resumed[name], tensor, rtol=0, atol=1e-2, msg=name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", activation_names())
def test_losses_and_gradients_agree_with_the_cpu(name, dtype):
    prior = ClassPrior(tuple("abcdef"), [1, 5, 20, 60, 150, 400], 500)
    # A GPU draws other random numbers, which have no effect with these options.
    options = {} if activation_class(name).deterministic else OPTIONS[name]
    activation = build_activation(name, 6, prior, **options)
    logits = (3 * torch.randn(50, activation.num_outputs)).to(dtype)
    gt_classes = torch.randint(0, 7, (50,))
    found = []
    for device in ("cpu", "cuda"):
        x = logits.to(device, copy=True).requires_grad_()
        on_device = copy.deepcopy(activation).to(device)
        on_device.observe(x.detach(), gt_classes.to(device))  # so that a loss that reads state reads some
        with torch.autocast(device, enabled=dtype != torch.float32, dtype=torch.bfloat16):
            loss = on_device.loss(x, gt_classes.to(device))
        loss.backward()
        found.append((loss.detach().cpu(), x.grad.cpu()))
    # A GPU rounds exp and log differently.
    rtol, atol = {torch.float32: (1e-5, 1e-6), torch.float16: (2e-3, 1e-5), torch.bfloat16: (2e-2, 1e-5)}[dtype]
    torch.testing.assert_close(found[1], found[0], rtol=rtol, atol=atol)


def test_every_activation_with_a_config_is_tried():
    def activations(methods):
        configs = [load_config(CONFIGS / "rendered" / f"{method}.yaml") for method in methods]
        return {cfg.MODEL.ROI_BOX_HEAD.ACTIVATION.NAME for cfg in configs}

    assert activations([*FIRST_STAGES, *SECOND_STAGES]) == activations(METHODS)


@pytest.mark.parametrize("method", FIRST_STAGES)
def test_a_method_trains_is_evaluated_and_resumes(method, rendered, tmp_path):
    config, overrides = f"rendered/{method}.yaml", FIRST_STAGES[method]
    weights = train(config, rendered, tmp_path, **overrides)
    check_results(tmp_path, "MODEL.EMA.ENABLED" in overrides)
    check_resuming(config, rendered, tmp_path, weights, **overrides)


@pytest.fixture(scope="module")
def first_stages(rendered, tmp_path_factory):
    """A function that returns the path of a method's weights, which it trains once."""
    output = tmp_path_factory.mktemp("first_stages")

    @functools.cache
    def trained(method):
        train(f"rendered/{method}.yaml", rendered, output / method, **{"DATASETS.TEST": ()})
        return output / method / "model_final.pth"

    return trained


def test_the_second_stages_are_all_that_there_are():
    configs = {path.stem: load_config(path) for path in (CONFIGS / "rendered").glob("*.yaml")}
    assert {n for n, cfg in configs.items() if cfg.MODEL.META_ARCHITECTURE == "DecoupledRCNN"} == set(SECOND_STAGES)


@pytest.mark.parametrize("method", SECOND_STAGES)
def test_a_second_stage_changes_its_classifier_is_evaluated_and_resumes(method, rendered, first_stages, tmp_path):
    first = first_stages(METHODS[method].first_stage)
    config, overrides = f"rendered/{method}.yaml", {**SECOND_STAGES[method], "MODEL.WEIGHTS": first}
    after = train(config, rendered, tmp_path, **overrides)
    before = weights_of(first)
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    new = [name for name in after if name not in before]
    assert changed or new
    # The new tensors are scales, or the state of an activation.
    assert all(name.startswith(f"{CLASSIFIER}.") for name in changed)
    assert all(name.startswith((f"{CLASSIFIER}.", f"{ACTIVATION}.")) for name in new)
    check_results(tmp_path, "MODEL.EMA.ENABLED" in overrides)
    check_resuming(config, rendered, tmp_path, after, **overrides)


def test_a_checkpoint_is_exported(rendered, first_stages, tmp_path):
    tool = runpy.run_path(str(ROOT / "tools" / "export_submission.py"))
    words = ["--config-file", CONFIGS / "rendered" / "rfs.yaml", "--dataset", "rendered_val", "--output", tmp_path]
    words += options(rendered, tmp_path, **{"MODEL.WEIGHTS": first_stages("rfs")})
    assert tool["main"]([*map(str, words)]) == 0
    for task in ("segm", "bbox"):
        records = json.loads((tmp_path / f"rendered_val_{task}.json").read_text())
        assert {record["category_id"] for record in records} <= set(range(1, 13))


R50 = {
    "MODEL.WEIGHTS": "", "INPUT.MIN_SIZE_TRAIN": (96,), "INPUT.MIN_SIZE_TEST": 96, "SOLVER.STEPS": (),
    "DATASETS.TRAIN": ("rendered_train",), "DATASETS.TEST": ("rendered_val",), "DATALOADER.NUM_WORKERS": 0,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 32, "MODEL.RPN.POST_NMS_TOPK_TEST": 50, "MODEL.ROI_BOX_HEAD.FC_DIM": 64,
    "SOLVER.CHECKPOINT_PERIOD": 5, "SOLVER.BASE_LR": 1e-4, "TEST.DETECTIONS_PER_IMAGE": 10,
}  # fmt: skip


if IS_SIMULATED:  # an R18, for the sake of time
    R50.update({"MODEL.RESNETS.DEPTH": 18, "MODEL.RESNETS.RES2_OUT_CHANNELS": 64})


def test_r50_trains_and_is_evaluated_and_so_does_its_second_stage(rendered, tmp_path):
    overrides = {**R50, **BFLOAT16, **CLIP}
    before = train("r50_balanced_sigmoid.yaml", rendered, tmp_path / "first", **overrides)
    check_results(tmp_path / "first")
    assert all(tensor.isfinite().all() for tensor in before.values())
    overrides = {**R50, "MODEL.WEIGHTS": tmp_path / "first" / "model_final.pth", "DATASETS.TEST": ()}
    after = train("r50_balms.yaml", rendered, tmp_path / "second", **overrides)
    assert {name for name in before if not torch.equal(before[name], after[name])} == {
        f"{CLASSIFIER}.weight",
        f"{CLASSIFIER}.bias",
    }


def test_the_command_line_trains_and_evaluates(rendered, tmp_path):
    command = [sys.executable, ROOT / "tools" / "train_net.py", "--config-file", CONFIGS / "rendered" / "rfs.yaml"]
    command += options(rendered, tmp_path)
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "on cuda" in (tmp_path / "log.txt").read_text()
    check_results(tmp_path)


class FailsFirst(torch.nn.Module):
    """A model whose first losses can't be computed."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(2))
        self.calls = 0

    def forward(self, batch):
        self.calls += 1
        if self.calls == 1:
            raise FloatingPointError("Predicted boxes or scores contain Inf/NaN.")
        return {"loss": self.weight.sum()}


def test_a_first_step_whose_losses_cannot_be_used_is_skipped_with_float16():
    model = FailsFirst().cuda().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = TrainingStep(model, iter(lambda: [{"file_name": "a"}], None), optimizer, autocast=torch.float16)
    with EventStorage():
        for trainer.iter in range(2):
            trainer.run_step()
    assert trainer.skipped == 1
    torch.testing.assert_close(model.weight.detach().cpu(), torch.full((2,), 0.9))


def test_a_gpus_random_state_is_restored_on_a_machine_with_any_number_of_gpus(monkeypatch):
    states = current_states()
    expected = torch.rand(3, device="cuda")
    assert len(states["cuda"]) == 1
    torch.manual_seed(12345)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    set_states(states)
    assert torch.equal(torch.rand(3, device="cuda"), expected)
