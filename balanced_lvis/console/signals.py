"""Handling and blocking of the signals that ask a process to stop."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker

from ..utils.errors import Preempted

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
# Exit status after Ctrl-C, as in shells.
INTERRUPTED = 128 + signal.SIGINT


@contextlib.contextmanager
def handled_by(handler: Callable) -> Iterator[None]:
    """A context in which ``handler`` handles :data:`SIGNALS`; the previous handlers are restored at its end."""
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


@contextlib.contextmanager
def ends_at_once(before_exit: Callable[[int], None] = lambda status: None) -> Iterator[None]:
    """
    A context in which SIGTERM and SIGUSR1 exit at once with the status of :class:`Preempted`.

    No exception is raised, because within an import or the clean-up of a library it could be lost or printed as a
    traceback. Child processes end with this one (:mod:`balanced_lvis.utils.parent_process`).

    Signals blocked by :func:`held` are unblocked. Outside of the main thread the context does nothing, because Python
    allows signal handlers in the main thread only.

    Args:
        before_exit: called with the exit status first.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    process = os.getpid()

    def end(number, frame):
        if os.getpid() == process:  # not in a data worker that was just forked
            with contextlib.suppress(Exception):
                before_exit(Preempted.exit_status)
            _write(f"Stopped at once by {signal.Signals(number).name}.\n")
            exit_now(Preempted.exit_status)
        os._exit(Preempted.exit_status)

    with handled_by(end):
        if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # set by balanced_lvis_cli during imports
            signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {*SIGNALS, signal.SIGINT})
        yield


@contextlib.contextmanager
def held() -> Iterator[None]:
    """
    A context in which the signals are blocked, also in processes started within it.

    A started process is then not killed during its imports; :func:`ends_at_once` handles what arrived meanwhile.
    """
    # Otherwise the first process starts it, which unblocks signals in some versions of Python.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*SIGNALS, signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def exit_now(status: int) -> None:
    """Exits this process, regardless of its threads."""
    with contextlib.suppress(Exception):
        logging.shutdown()
        sys.stdout.flush()
    os._exit(status)


def _write(text: str) -> None:
    """Writes to standard error unbuffered, because the main thread may be writing to ``sys.stderr``."""
    with contextlib.suppress(OSError):
        os.write(2, text.encode())
