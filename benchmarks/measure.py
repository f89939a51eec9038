"""Measurement of two contenders on the same input: time, peak memory, and whether the results are the same."""

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
# If stock takes longer, one round is enough: its time varies by a few percent.
LONG_SECONDS = 30


@dataclass(frozen=True)
class Options:
    """
    Options of the benchmarks.

    Attributes:
        device: "cpu" or "cuda".
        rounds: number of measurements of each contender, alternating.
        batch: batch size of training and inference; None for 2 in training and 1 in inference.
        iterations: steps per measurement in training and inference.
        configs: folder of balanced_lvis's configs.
        config_file: config to use instead of the suite's.
        opts: config overrides for balanced_lvis, KEY VALUE pairs, flat.
        images: number of images of the largest evaluation.
        annotations: number of annotations for the start-up suite; LVIS-1.0 train has 1,270,141.
        coco: folder of photographs for the mapper suite; None for coco in the datasets folder.
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
    coco: Path | None = None


def row(
    suite: str,
    size: str,
    stock: list[float],
    native: list[float],
    peaks: Sequence[float | None] | None,
    identical: bool | None,
) -> dict:
    """
    One line of the table.

    Args:
        suite: name of the suite.
        size: description of the work.
        stock, native: seconds of each round, measured alternately; ratios are those of neighbouring rounds. Stock is
            empty if only balanced_lvis is measured.
        peaks: peak memory of stock and native in MB, each None if not measured; None for both.
        identical: whether the results are the same; None if they are not compared.
    """
    ratios = [a / b for a, b in zip(stock, native)]
    stock_peak, ours_peak = peaks or (None, None)
    return {
        "suite": suite,
        "size": size,
        "stock_seconds": statistics.median(stock) if stock else None,
        "ours_seconds": statistics.median(native),
        "ratio": statistics.median(ratios) if stock else None,
        "ratio_min": min(ratios) if stock else None,
        "ratio_max": max(ratios) if stock else None,
        "stock_peak_mb": stock_peak,
        "ours_peak_mb": ours_peak,
        "identical": identical,
    }


def time_alternating(
    stock: Callable[[], object], native: Callable[[], object], rounds: int, device: str = "cpu"
) -> tuple[list[float], list[float]]:
    """
    Measure alternating calls, after one warm-up call of each.

    Args:
        stock, native: functions, called ``rounds`` times each.
        device: with "cuda", the GPU is synchronised before and after each call.

    Returns:
        seconds of each call of stock and of native.
    """
    seconds: tuple[list[float], list[float]] = ([], [])
    for index in range(rounds + 1):
        for call, found in zip((stock, native), seconds):
            wait_for(device)
            start = time.perf_counter()
            call()
            wait_for(device)
            if index:
                found.append(time.perf_counter() - start)
    return seconds


def wait_for(device: str) -> None:
    """Synchronise the GPU; does nothing on "cpu"."""
    if device == "cuda":
        torch.cuda.synchronize()


def in_fresh_process(function: str, job: dict) -> dict:
    """
    Call a function in a new interpreter, so that the peak memory is that of the function.

    Args:
        function: "module:name" of a function that takes ``job`` and returns a dict.
        job: argument, JSON-serialisable.

    Returns:
        the returned dict, with "peak_mb", the peak resident memory of the process, unless the function returned it.

    Raises:
        InputError: if the function fails, with the end of its output.
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
    Call a function and measure its peak memory.

    It is called in a new process, or in this one if ``job["device"]`` is "cuda": the peak of a GPU can be reset, and
    starting a process takes longer than the measurement.

    Args:
        function, job: as for :func:`in_fresh_process`.

    Returns:
        the returned dict, with "peak_mb" of the device, unless the function returned it.
    """
    if job["device"] != "cuda":
        return in_fresh_process(function, job)
    torch.cuda.init()
    gc.collect()  # objects of an earlier measurement
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    found = _function(function)(job)
    return {"peak_mb": peak_mb("cuda"), **found}


@contextlib.contextmanager
def without_tf32() -> Iterator[None]:
    """
    Context with convolutions in full float32 on a GPU, as matrix products are by default.

    The mask predictor is a convolution in Detectron2 and a matrix product in balanced_lvis. Results are compared
    without TF32, and times are measured with torch's default, which is TF32.
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
    """Entry point of the process of :func:`in_fresh_process`."""
    end_with_starter()
    found = _function(function)(json.loads(job))
    print(MARK + json.dumps({"peak_mb": peak_mb(), **found}))


def peak_mb(device: str = "cpu") -> float:
    """
    Peak memory of this process in MB: resident, or, for "cuda", allocated on the GPU.

    Linux's ``ru_maxrss`` can't be used: a process inherits the value of its parent.
    """
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return float(status.read_text().split("VmHWM:")[1].split()[0]) / 1024


def machine(device: str) -> dict:
    """Description of the machine."""
    return {
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
