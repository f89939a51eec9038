"""Puts the simulated device into this process."""

from __future__ import annotations

import atexit
import importlib
import os
import threading
import time
from pathlib import Path

import torch

from tests.simulated_cuda.collectives import patch_distributed
from tests.simulated_cuda.compiled import load_guard
from tests.simulated_cuda.state import STATE
from tests.simulated_cuda.tensor import SimulatedMode
from tests.simulated_cuda.torch_cuda import patch_cuda


def install() -> None:
    """
    Put the device into this process and those that it forks. Others install their own: see :mod:`.running`.

    It has to be called before any code asks ``torch.cuda`` for something. Calling it again changes nothing.

    Raises:
        RuntimeError: if ``guard.cpp`` can't be compiled.
    """
    if STATE.guard is not None:
        return
    importlib.import_module("torch._dynamo")  # before it compares functions with those that are replaced below

    STATE.guard = load_guard()
    os.register_at_fork(after_in_child=_after_fork)
    patch_cuda()
    patch_distributed()
    if hasattr(torch._C, "_set_only_lift_cpu_tensors"):
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device="cuda") copies by a dispatched operator
    SimulatedMode().__enter__()
    _enter_mode_in_every_thread()
    atexit.register(_let_device_threads_finish)
    if folder := os.environ.get("SIMCUDA_WAITS"):
        atexit.register(_save_waits, Path(folder), os.getpid())


def _after_fork() -> None:
    STATE.in_forked_process = True


def _enter_mode_in_every_thread() -> None:
    run = threading.Thread.run

    def run_in_mode(self):
        with SimulatedMode():
            run(self)

    threading.Thread.run = run_in_mode


def _let_device_threads_finish() -> None:
    """
    Autograd's device thread may still be releasing tensors of the last backward pass, which simulated ones need Python
    for. Python would end the thread for that, and C++ the process.
    """
    if STATE.in_forked_process:
        return
    x = torch.ones((), device="cuda", requires_grad=True)
    (x * 1).backward()  # waits for what the thread does before
    time.sleep(0.05)


def _save_waits(folder: Path, process: int) -> None:
    if os.getpid() == process:  # not in one that was forked
        STATE.save(folder / f"{process}.json")
