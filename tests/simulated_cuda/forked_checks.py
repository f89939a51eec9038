"""
``python -m tests.simulated_cuda.forked_checks``: tools/gpu_check.py, with the simulated device, whose training runs are
forked from a server, as importing torch takes most of their time. Tasks of SLURM are new Pythons, because each has its
own devices.
"""

import runpy
import subprocess
import sys
import tempfile
import types

from gpu_check import training_checks
from tests import programs
from tests.common import ROOT


def run(command, env, **output) -> subprocess.CompletedProcess:
    """As the checks call :func:`subprocess.run`."""
    assert command[0] == sys.executable and output["stderr"] == subprocess.STDOUT
    with tempfile.NamedTemporaryFile() as file:
        return programs.run(*command[1:], env=env, output=file.name)


if __name__ == "__main__":
    training_checks.subprocess = types.SimpleNamespace(**{**vars(subprocess), "run": run})
    sys.argv[0] = str(ROOT / "tools" / "gpu_check.py")
    runpy.run_path(sys.argv[0], run_name="__main__")
