"""How Python is started with the simulated device, and when it can't be."""

import subprocess

import pytest
import torch

from tests.simulated_cuda import compiled, running
from tests.simulated_cuda.running import reason_to_skip, run_simulated

CODE = """
import subprocess, sys, torch
x = torch.ones(3, device="cuda", requires_grad=True)
(2 * x).sum().backward()
print(torch.cuda.device_count(), x.grad.tolist())
if len(sys.argv) == 1:
    subprocess.run([sys.executable, "-c", "import torch; print(float(torch.ones(1).cuda()), flush=True)"], check=True)
"""


@pytest.mark.skipif(reason_to_skip() is not None, reason=reason_to_skip() or "")
def test_output_and_waits_of_all_processes_are_returned():
    done = run_simulated("-c", CODE, devices=3).checked()
    assert sorted(done.stdout.splitlines()) == ["1.0", "3 [2.0, 2.0, 2.0]"]
    assert sorted((wait.kind, times) for wait, times in done.waits.items()) == [("D2H", 1), ("H2D", 1), ("item", 1)]


@pytest.mark.skipif(reason_to_skip() is not None, reason=reason_to_skip() or "")
def test_a_failure_is_shown():
    done = run_simulated("-c", "import torch; torch.ones(2).cuda().numpy()")
    assert done.status == 1
    with pytest.raises(AssertionError, match="can't convert cuda:0 device type tensor to numpy"):
        done.checked()


def test_without_a_compiler_the_reason_is_told(monkeypatch):
    monkeypatch.setattr(compiled, "COMPILER", "no-such-compiler")
    assert "needs no-such-compiler" in reason_to_skip.__wrapped__()


def test_another_torch_is_tried_and_what_fails_is_told(monkeypatch):
    monkeypatch.setattr(compiled, "COMPILER", "python3")
    monkeypatch.setattr(torch, "__version__", "1.0")
    failed = running.Done(1, "", "Traceback\nAttributeError: no such internal", {})
    monkeypatch.setattr(running, "run_simulated", lambda *arguments: failed)
    assert reason_to_skip.__wrapped__().endswith("not 1.0: AttributeError: no such internal")
    monkeypatch.setattr(running, "run_simulated", lambda *arguments: running.Done(0, "", "", {}))
    assert reason_to_skip.__wrapped__() is None


def test_the_launcher_without_arguments_shows_how_it_is_used():
    command = [running.sys.executable, "-m", "tests.simulated_cuda"]
    done = subprocess.run(command, cwd=running.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.startswith("usage: ")
