"""Table of all checks, fastest first."""

from __future__ import annotations

import platform

import detectron2
import torch
import torchvision

from balanced_lvis import _detectron2
from benchmarks import SUITES, Options

from . import exactness, training_checks
from .verdicts import CheckFailedError, Context

# Benchmark suites that depend on the GPU.
MEASURED = ("boxes", "masks", "rle", "train", "stage2", "inference")


def environment(context: Context):
    """Versions and devices."""
    details = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "cuda": torch.version.cuda,
        "detectron2": f"{detectron2.__version__} ({_detectron2.logger_name()})",
        "gpus": [],
    }
    if context.device == "cuda":
        if not torch.cuda.is_available():
            raise CheckFailedError(
                f"torch {torch.__version__} finds no GPU; install a build with CUDA and a matching driver."
            )
        details["gpus"] = [_gpu(index) for index in range(torch.cuda.device_count())]
        details["nccl"] = ".".join(map(str, torch.cuda.nccl.version())) if torch.version.cuda else None
        details["bfloat16"] = torch.cuda.is_bf16_supported()
    names = ", ".join(gpu["name"] for gpu in details["gpus"]) or "CPU"
    return f"{names}; torch {torch.__version__}, Detectron2 {details['detectron2']}", details


def _gpu(index: int) -> dict:
    properties = torch.cuda.get_device_properties(index)
    return {
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "memory_gb": round(properties.total_memory / 2**30, 1),
    }


def benchmark(context: Context):
    """A short benchmark: one round of each suite, compared with Detectron2 on the same device."""
    options = Options(device=context.device, rounds=1, iterations=5, configs=context.root / "configs")
    rows = [row for suite in MEASURED for row in SUITES[suite](options)]
    wrong = sorted({row["suite"] for row in rows if row["identical"] is False})
    if wrong:
        raise CheckFailedError(f"results differ from Detectron2's: {', '.join(wrong)}")
    speedups = [f"{row['suite']} {row['ratio']:.2f}x" for row in rows]
    return f"speed-up over Detectron2: {', '.join(speedups)}", {"rows": rows}


CHECKS = {
    "environment": environment,
    "activations": exactness.activations,
    "detections": exactness.detections,
    "pooling": exactness.pooling,
    "masks": exactness.masks,
    "two_ranks": training_checks.two_ranks,
    "slurm": training_checks.slurm,
    "precision": training_checks.precision,
    "resume": training_checks.resume,
    "methods": training_checks.methods,
    "benchmark": benchmark,
}
