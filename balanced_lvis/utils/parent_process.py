"""
Child processes that end when their parent process has ended.

A process that is killed (SIGKILL, out of memory) can't end its children: data workers, ranks, processes that render,
training runs of a comparison. So each child watches its parent.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Mapping

# Seconds between two checks.
INTERVAL = 0.5
_VARIABLE = "BALANCED_LVIS_PARENT"
_STATUS = 5  # exit status of LostProcessError


def end_with_parent(parent: int | None = None, end: Callable[[], object] = lambda: os._exit(_STATUS)) -> None:
    """
    End this process soon after its parent has ended, or if it has already ended.

    A thread checks, so that it works while the main thread waits for a full queue, decodes an image or waits for
    another rank. It checks the parent's process id. Only Linux has a signal for this, and it follows the parent's
    thread; a pipe would be inherited by processes that are forked later.

    Args:
        parent: process id; None for the process that started this one with ``multiprocessing``.
        end: function that ends this process.
    """
    if parent is None:
        started_by = multiprocessing.parent_process()
        parent = started_by.pid if started_by else None
    if parent is not None and os.name != "nt":  # Windows keeps the id of a dead parent
        threading.Thread(target=_watch, args=(parent, end), daemon=True, name="end with parent").start()


def _watch(parent: int, end: Callable[[], object]) -> None:
    is_direct = os.getppid() == parent  # False with a fork server in between, or if the parent has already ended
    while (os.getppid() == parent) if is_direct else _is_alive_beyond_server(parent):
        time.sleep(INTERVAL)
    end()


def _is_alive_beyond_server(parent: int) -> bool:
    started_by = multiprocessing.parent_process()
    return started_by is not None and started_by.pid == parent and started_by.is_alive()


def child_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Environment for a program started by this process that calls :func:`end_with_starter`."""
    return {**environment, _VARIABLE: str(os.getpid())}


def end_with_starter(end: Callable[[], object] = lambda: os._exit(_STATUS)) -> None:
    """
    As :func:`end_with_parent`, for a program that was started with :func:`child_environment`. Otherwise does nothing.

    Args:
        end: function that ends this process.
    """
    parent = os.environ.pop(_VARIABLE, None)  # programs started by this one have another parent
    if parent is not None:
        end_with_parent(int(parent), end)
