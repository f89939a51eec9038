"""Trainings of two processes, each with a simulated GPU of its own."""

import json
import subprocess
import sys

import pytest

from ..common import CONFIGS, ROOT, rendered_opts
from ..engine.processes.test_launch import free_port
from .running import reason_to_skip, run_simulated, simulated_environment

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(reason_to_skip() is not None, reason=reason_to_skip() or ""),
]
TOOL = ROOT / "tools" / "train_net.py"


def arguments(root, output, *flags) -> list[str]:
    opts = [*rendered_opts(root, output), "MODEL.DEVICE", "cuda", "SOLVER.MAX_ITER", "2", "MODEL.EMA.ENABLED", "True"]
    return [*map(str, ("--config-file", CONFIGS / "rendered" / "balanced_sigmoid.yaml", *flags, *opts))]


def check_trained(output):
    assert set(json.loads((output / "results.json").read_text())) == {"bbox", "segm"}
    assert (output / "model_final.pth").exists()


def test_two_processes_with_a_gpu_each_train_and_evaluate(rendered, tmp_path):
    run_simulated(TOOL, *arguments(rendered, tmp_path, "--num-gpus", 2, "--dist-url", "auto"), devices=2).checked()
    check_trained(tmp_path)


def test_more_processes_than_gpus_are_refused(rendered, tmp_path):
    done = run_simulated(TOOL, *arguments(rendered, tmp_path, "--num-gpus", 2), devices=1)
    assert done.status == 2
    assert "2 processes are to share this machine's 1 GPU(s)" in done.stderr


@pytest.mark.xfail(
    strict=True, raises=AssertionError, reason="DistributedDataParallel is given the local rank as device"
)
def test_slurm_tasks_that_see_one_gpu_each_train_and_evaluate(rendered, tmp_path):
    step = {
        "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_STEP_NODELIST": "localhost",
        "MASTER_PORT": str(free_port()),
    }  # fmt: skip
    tasks = [
        subprocess.Popen(
            [sys.executable, str(TOOL), *arguments(rendered, tmp_path)], cwd=ROOT, text=True,
            env=simulated_environment(1, **step, SLURM_PROCID=str(rank), SLURM_LOCALID=str(rank)),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for rank in range(2)
    ]  # fmt: skip
    printed = [task.communicate()[0] for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], "\n".join(text[-3000:] for text in printed)
    check_trained(tmp_path)
