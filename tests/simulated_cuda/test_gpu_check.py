"""tools/gpu_check.py on the simulated device: one GPU; two; and two of which each SLURM task sees its own."""

import json

import pytest

from tests.common import CONFIGS, ROOT, rendered_opts
from tests.simulated_cuda.running import reason_to_skip, run_simulated

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(reason_to_skip() is not None, reason=reason_to_skip() or ""),
]


def gpu_check(tmp_path, devices: int, *arguments) -> dict[str, str]:
    """The status of every check by name."""
    path = tmp_path / "gpu_check.json"
    run_simulated("-m", "tests.simulated_cuda.forked_checks", "--json", path, *arguments, devices=devices).checked()
    return {result["name"]: result["status"] for result in json.loads(path.read_text())}


def test_all_checks_pass_with_one_gpu(tmp_path):
    """But the benchmark, which measures nothing here, and most of the methods, which test_gpu.py trains."""
    found = gpu_check(tmp_path, 1, "--skip", "benchmark", "--methods", "crt")
    skipped = {"two_ranks", "slurm"}
    assert found and found == {name: "skipped" if name in skipped else "ok" for name in found}


def test_two_processes_pass_with_two_gpus_by_arguments_and_by_slurms_variables(tmp_path):
    assert gpu_check(tmp_path, 2, "--only", "two_ranks", "slurm") == {"two_ranks": "ok", "slurm": "ok"}


def test_more_processes_than_gpus_are_refused(rendered, tmp_path):
    opts = [*rendered_opts(rendered, tmp_path), "MODEL.DEVICE", "cuda"]
    config = CONFIGS / "rendered" / "balanced_sigmoid.yaml"
    arguments = ["--config-file", config, "--num-gpus", 2, *opts]
    done = run_simulated(ROOT / "tools" / "train_net.py", *arguments, devices=1)
    assert done.status == 2
    assert "2 processes can't share the 1 GPU(s) of this machine" in done.stderr
