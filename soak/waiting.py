"""Waiting for child processes, with a timeout."""

from __future__ import annotations

import os
import time
from pathlib import Path


def exit_status_within(process: int, seconds: float) -> int | None:
    """The exit status of a child process; None if it still runs after ``seconds``."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    return None


def seconds_until_gone(group: int, seconds: float) -> float | None:
    """Seconds until a process group is empty; None if it is not after ``seconds``. 0 without /proc."""
    start = time.monotonic()
    while _has_processes(group):
        if time.monotonic() - start > seconds:
            return None
        time.sleep(0.05)
    return time.monotonic() - start


def _has_processes(group: int) -> bool:
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, of = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:  # it has ended
            continue
        if int(of) == group and state not in "ZX":
            return True
    return False
