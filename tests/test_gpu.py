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


@pytest.mark.parametrize("amp", ["False", "True"])
def test_training_and_evaluation_run_on_the_gpu(rendered, tmp_path, amp):
    opts = rendered_opts(rendered, tmp_path)
    opts[opts.index("MODEL.DEVICE") + 1] = "cuda"
    command = [sys.executable, ROOT / "tools" / "train_net.py", "--config-file"]
    command += [CONFIGS / "quick_start" / "balanced_sigmoid.yaml", *opts, "SOLVER.AMP.ENABLED", amp]
    done = subprocess.run([*map(str, command)], env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert set(json.loads((tmp_path / "results.json").read_text())) == {"bbox", "segm"}
