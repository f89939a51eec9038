"""
Processes that end when the process that started them has ended.

A process that is killed (SIGKILL, out of memory) can't end the processes that it has started: data workers, ranks,
processes that render, training runs of a comparison. So each of them watches the process that started it.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Mapping

# Seconds between two looks.
INTERVAL = 0.5
_VARIABLE = "BALANCED_LVIS_PARENT"
_STATUS = 5  # of a lost process


def end_with_parent(parent: int | None = None, end: Callable[[], object] = lambda: os._exit(_STATUS)) -> None:
    """
    From now on, end this process soon after the one that started it; also if that one has already ended.

    A thread looks, so that a main thread that waits for a full queue, decodes an image or waits for another rank needs
    to do nothing. It is a look at the parent's process id and not a signal or a pipe: Linux alone has a signal for
    it, which follows the parent's thread, and a pipe's other end is inherited by the processes forked next.

    Args:
        parent: process id; None: of the process that started this one by ``multiprocessing``.
        end: ends this process.
    """
    if parent is None:
        started_by = multiprocessing.parent_process()
        parent = started_by.pid if started_by else None
    if parent is not None and os.name != "nt":  # where a process keeps a dead parent's id
        threading.Thread(target=_watch, args=(parent, end), daemon=True, name="end with parent").start()


def _watch(parent: int, end: Callable[[], object]) -> None:
    is_direct = os.getppid() == parent  # not with a fork server in between, nor where it has already ended
    while (os.getppid() == parent) if is_direct else _is_alive_beyond_server(parent):
        time.sleep(INTERVAL)
    end()


def _is_alive_beyond_server(parent: int) -> bool:
    started_by = multiprocessing.parent_process()
    return started_by is not None and started_by.pid == parent and started_by.is_alive()


def child_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """``environment`` for a program that this process starts and that is to call :func:`end_with_starter`."""
    return {**environment, _VARIABLE: str(os.getpid())}


def end_with_starter(end: Callable[[], object] = lambda: os._exit(_STATUS)) -> None:
    """
    As :func:`end_with_parent`, for a program that was started with :func:`child_environment`; else nothing.

    Args:
        end: ends this process.
    """
    parent = os.environ.pop(_VARIABLE, None)  # what this program starts has another parent
    if parent is not None:
        end_with_parent(int(parent), end)
