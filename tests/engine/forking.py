"""Processes for tests, forked from a server process that has imported everything and has no threads."""

import multiprocessing
import time
from pathlib import Path

context = multiprocessing.get_context("forkserver")
# What programs and tests import, so that a forked process imports next to nothing.
context.set_forkserver_preload(
    [
        "pytest", "tests.engine.toy", "balanced_lvis.api", "balanced_lvis.classification.experiment", "tensorboard",
        *(
            f"balanced_lvis.commands.{name}"
            for name in ("analyze_dataset", "calibrate", "compare", "export", "predict", "train", "train_classifier")
        ),
    ]
)  # fmt: skip


def is_running(pid: int) -> bool:
    """Whether a process that may not be a child of this one is alive; a zombie is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for(condition, seconds=120.0) -> None:
    """Wait until ``condition()`` holds, which may take longer on a busy machine."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
