"""Two contenders on the same input in one run: time, peak memory, and whether the results are the same."""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from balanced_lvis.utils.errors import InputError
from balanced_lvis.utils.parent_process import child_environment, end_with_starter

MARK = "benchmark-result "
# Where stock takes longer, one round is enough: its seconds vary by a few percent.
LONG_SECONDS = 30


@dataclass(frozen=True)
class Options:
    """
    How much is measured.

    Attributes:
        device: "cpu" or "cuda".
        rounds: measurements of each contender, alternating.
        batch: images at a time, in the suites that have images; None for their own, 2 in training and 1 in inference.
        iterations: steps of a measurement, in the suites that train or infer.
        configs: folder of balanced_lvis's configs.
        config_file: another config than the suite's own.
        opts: overrides of ours, KEY VALUE pairs, flat.
        images: of the largest evaluation, in the suite that evaluates.
        annotations: of the file that the start-up suite makes; LVIS-1.0 train has 1,270,141.
    """

    device: str = "cpu"
    rounds: int = 3
    batch: int | None = None
    iterations: int = 1
    configs: Path = Path("configs")
    config_file: str | None = None
    opts: tuple[str, ...] = ()
    images: int = 5000
    annotations: int = 1_270_000


def row(
    suite: str,
    size: str,
    stock: list[float],
    ours: list[float],
    peaks: Sequence[float | None] | None,
    identical: bool | None,
) -> dict:
    """
    One line of the table.

    Args:
        suite: its name.
        size: of the work, in words.
        stock, ours: seconds of every round, taken alternately; ratios are those of neighbours. Stock is empty where
            only ours is measured.
        peaks: MB of stock and ours, each None where memory is not measured; None for both.
        identical: whether the results are the same; None where they are not compared.
    """
    ratios = [a / b for a, b in zip(stock, ours)]
    stock_peak, ours_peak = peaks or (None, None)
    return {
        "suite": suite,
        "size": size,
        "stock_seconds": statistics.median(stock) if stock else None,
        "ours_seconds": statistics.median(ours),
        "ratio": statistics.median(ratios) if stock else None,
        "ratio_min": min(ratios) if stock else None,
        "ratio_max": max(ratios) if stock else None,
        "stock_peak_mb": stock_peak,
        "ours_peak_mb": ours_peak,
        "identical": identical,
    }


def time_alternating(
    stock: Callable[[], object], ours: Callable[[], object], rounds: int, device: str = "cpu"
) -> tuple[list[float], list[float]]:
    """
    Seconds of every call, after one of each that warms up.

    Args:
        stock, ours: called ``rounds`` times each, in turns.
        device: "cuda" waits for the GPU before and after each call.
    """
    seconds: tuple[list[float], list[float]] = ([], [])
    for index in range(rounds + 1):
        for call, found in zip((stock, ours), seconds):
            wait_for(device)
            start = time.perf_counter()
            call()
            wait_for(device)
            if index:
                found.append(time.perf_counter() - start)
    return seconds


def wait_for(device: str) -> None:
    """Until a GPU has done what it was given; nothing on "cpu"."""
    if device == "cuda":
        torch.cuda.synchronize()


def in_fresh_process(function: str, job: dict) -> dict:
    """
    Call a function in an interpreter of its own, so that its peak memory is its own too.

    Args:
        function: "module:name"; it takes ``job`` and returns a dict.
        job: its argument, as JSON can hold it.

    Returns:
        what it returned, with "peak_mb", the process's peak resident memory, unless it gave one.

    Raises:
        InputError: if it fails, with the end of its output.
    """
    code = "import sys; from benchmarks.measure import _answer; _answer(*sys.argv[1:])"
    command = [sys.executable, "-W", "ignore", "-c", code, function, json.dumps(job)]
    # This package is not installed: the process finds it as this one does.
    environment = {**child_environment(), "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    if done.returncode or not lines:
        raise InputError(f"The measurement of {job} failed:\n{done.stderr[-2000:]}")
    return json.loads(lines[-1][len(MARK) :])


def with_own_peak(function: str, job: dict) -> dict:
    """
    Call a function so that its peak memory is its own: in a fresh process, or, for ``job["device"]`` "cuda", in this
    one, as a GPU's peak can be reset and starting a process takes longer than what is measured.

    Args:
        function, job: as for :func:`in_fresh_process`.

    Returns:
        what the function returned, with "peak_mb", of the device, unless it gave one.
    """
    if job["device"] != "cuda":
        return in_fresh_process(function, job)
    torch.cuda.init()
    gc.collect()  # what an earlier measurement has left
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    found = _function(function)(job)
    return {"peak_mb": peak_mb("cuda"), **found}


@contextlib.contextmanager
def without_tf32() -> Iterator[None]:
    """
    Convolutions in full float32 on a GPU, as matrix products are there by default.

    Detectron2's mask predictor is a convolution and ours a matrix product: they are compared without TF32, and timed
    with it, as torch comes.
    """
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def _function(name: str) -> Callable[[dict], dict]:
    module, _, name = name.partition(":")
    return getattr(importlib.import_module(module), name)


def _answer(function: str, job: str) -> None:
    """The other side of :func:`in_fresh_process`."""
    end_with_starter()
    found = _function(function)(json.loads(job))
    print(MARK + json.dumps({"peak_mb": peak_mb(), **found}))


def peak_mb(device: str = "cpu") -> float:
    """
    The most memory that this process has held so far: resident, or, for "cuda", allocated on the GPU.

    Linux's ``ru_maxrss`` is no measure of it: a process inherits that of its parent from before it was started.
    """
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return float(status.read_text().split("VmHWM:")[1].split()[0]) / 1024


def machine(device: str) -> dict:
    """What the measurement ran on."""
    return {
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
