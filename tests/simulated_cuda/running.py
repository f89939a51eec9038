"""Starts Python with the simulated device."""

from __future__ import annotations

import collections
import functools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.simulated_cuda.state import ROOT, Wait

STARTUP = Path(__file__).with_name("startup")


@dataclass(frozen=True)
class Done:
    """
    Attributes:
        status: exit status.
        stdout, stderr: what was printed.
        waits: counts of :class:`.state.Wait` of all processes that ended by themselves.
    """

    status: int
    stdout: str
    stderr: str
    waits: collections.Counter[Wait]

    def checked(self) -> Done:
        """
        Raises:
            AssertionError: if the exit status isn't 0, with the end of what was printed.
        """
        assert self.status == 0, f"exit status {self.status}\n{self.stdout[-6000:]}\n{self.stderr[-6000:]}"
        return self


def run_simulated(*arguments, devices: int = 1, timeout: float | None = None, **environ: str) -> Done:
    """
    Run Python with the simulated device, which processes started by the code under test have too.

    Args:
        *arguments: of Python: a script and its arguments, or "-m" and a module and its arguments.
        devices: how many there are.
        timeout: seconds.
        **environ: further environment variables.
    """
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, *map(str, arguments)],
            env=simulated_environment(devices, SIMCUDA_WAITS=folder, **environ),
            cwd=ROOT, capture_output=True, text=True, check=False, timeout=timeout,
        )  # fmt: skip
        return Done(done.returncode, done.stdout, done.stderr, read_waits(folder))


def simulated_environment(devices: int = 1, **environ: str) -> dict[str, str]:
    """This process's environment with what a process with the simulated device needs."""
    paths = [str(STARTUP), str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(filter(None, paths))),
        "SIMCUDA": "1",
        "SIMCUDA_DEVICES": str(devices),
        **environ,
    }


def read_waits(folder: str | os.PathLike) -> collections.Counter[Wait]:
    """Of all processes that had ``SIMCUDA_WAITS=folder``."""
    found = collections.Counter()
    for path in Path(folder).glob("*.json"):
        for *wait, times in json.loads(path.read_text(encoding="utf-8"))["waits"]:
            found[Wait(*wait)] += times
    return found


@functools.cache
def reason_to_skip() -> str | None:
    """
    Why there is no simulated device here; None if there is.

    With the torch that constraints.txt pins, all that may be missing is a compiler.
    """
    import torch

    from tests.simulated_cuda.compiled import COMPILER

    if shutil.which(COMPILER) is None:
        return f"needs {COMPILER}, to compile the simulated device's guard.cpp"
    if torch.__version__.partition("+")[0] == _pinned_torch():
        return None
    done = run_simulated("-c", "import torch; print((torch.ones(2, device='cuda', requires_grad=True) + 1).sum())")
    if done.status:
        end = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return f"the simulated device relies on internals of torch {_pinned_torch()}, not {torch.__version__}: {end}"
    return None


def _pinned_torch() -> str:
    return re.search(r"^torch==(\S+)", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)[1]
