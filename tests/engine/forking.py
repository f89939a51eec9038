"""Processes for tests, forked from one that has imported everything and has no threads, which a fork would lose."""

import multiprocessing
import time
from pathlib import Path

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["tests.engine.toy", "balanced_lvis.engine.run"])


def is_running(pid: int) -> bool:
    """Whether a process that may not be a child of this one has not ended; where nobody has fetched its status too."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for(condition, seconds=120.0) -> None:
    """Until ``condition()``; for what takes a moment, or longer on a machine with other work."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
