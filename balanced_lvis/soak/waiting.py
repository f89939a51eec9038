"""Waiting for a forked process, but not for ever."""

from __future__ import annotations

import os
import time


def exit_status_within(process: int, seconds: float) -> int | None:
    """The exit status of a child, by its number; None if it still runs after ``seconds``."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    return None
