"""What only a GPU can show. Run with: pytest -m gpu"""

import json
import os
import subprocess
import sys

import pytest
import torch

from balanced_lvis.activations import activation_names, build_activation
from balanced_lvis.priors import ClassPrior

from .common import CONFIGS, ROOT, rendered_opts

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", activation_names())
def test_losses_and_gradients_agree_with_the_cpu(name, dtype):
    prior = ClassPrior(tuple("abcdef"), [1, 5, 20, 60, 150, 400], 500)
    activation = build_activation(name, 6, prior)
    logits = (3 * torch.randn(50, 7)).to(dtype)
    gt_classes = torch.randint(0, 7, (50,))
    found = []
    for device in ("cpu", "cuda"):
        x = logits.to(device).requires_grad_()
        with torch.autocast(device, enabled=dtype != torch.float32, dtype=torch.bfloat16):
            loss = activation.to(device).loss(x, gt_classes.to(device))
        loss.backward()
        found.append((loss.detach().cpu(), x.grad.cpu()))
    torch.testing.assert_close(found[1], found[0])


def train(config, root, output, *overrides):
    """A training on the GPU in a process of its own; the folder with its results."""
    opts = rendered_opts(root, output)
    opts[opts.index("MODEL.DEVICE") + 1] = "cuda"
    command = [sys.executable, ROOT / "tools" / "train_net.py", "--config-file", CONFIGS / config, *opts, *overrides]
    done = subprocess.run([*map(str, command)], env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert set(json.loads((output / "results.json").read_text())) == {"bbox", "segm"}
    return output


@pytest.mark.parametrize("amp", ["False", "True"])
def test_training_and_evaluation_run_on_the_gpu(rendered, tmp_path, amp):
    train("quick_start/balanced_sigmoid.yaml", rendered, tmp_path, "SOLVER.AMP.ENABLED", amp)


@pytest.mark.parametrize("amp", ["False", "True"])
@pytest.mark.parametrize("method", ["crt", "lws", "balms"])
def test_second_stages_run_on_the_gpu_and_leave_the_rest_as_it_is(rendered, tmp_path, method, amp):
    first = train("rendered/rfs.yaml", rendered, tmp_path / "rfs") / "model_final.pth"
    second = train(
        f"rendered/{method}.yaml", rendered, tmp_path / method, "MODEL.WEIGHTS", first, "SOLVER.AMP.ENABLED", amp
    )
    before, after = (
        torch.load(path, weights_only=True, map_location="cpu")["model"] for path in (first, second / "model_final.pth")
    )
    changed = [key for key in before if not torch.equal(before[key], after[key])]
    assert all(".cls_score." in key for key in changed)
