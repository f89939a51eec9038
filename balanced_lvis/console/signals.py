"""Signals that ask a process to stop: handled, held back, or forwarded."""

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
# Of a process that was ended by Ctrl-C, as shells have it.
INTERRUPTED = 128 + signal.SIGINT


@contextlib.contextmanager
def handled_by(handler: Callable) -> Iterator[None]:
    """Within it, ``handler`` is called for each signal of :data:`SIGNALS`; afterwards the previous handlers are."""
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


@contextlib.contextmanager
def ends_at_once(say_goodbye: Callable[[int], None] = lambda status: None) -> Iterator[None]:
    """
    Within it, a signal that asks to stop ends the process where it is, with :class:`Preempted`'s status.

    No exception is raised: at any place, in an import or in a library's clean-up, it could be lost or become a
    traceback. What the process has started ends with it (:mod:`balanced_lvis.utils.parent_process`).

    Signals that were held until now (:func:`held`) are heeded from here on. Outside of a process's main thread nothing
    is caught, as Python has it.

    Args:
        say_goodbye: called with the status before the end.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    process = os.getpid()

    def end(number, frame):
        if os.getpid() == process:  # not in a data worker that has just been forked
            with contextlib.suppress(Exception):
                say_goodbye(Preempted.exit_status)
            _write(f"Asked to stop ({signal.Signals(number).name}): ended at once.\n")
            exit_now(Preempted.exit_status)
        os._exit(Preempted.exit_status)

    with handled_by(end):
        if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # a tool's, while it imported
            signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {*SIGNALS, signal.SIGINT})
        yield


@contextlib.contextmanager
def held() -> Iterator[None]:
    """
    Hold signals back; processes started within it begin with theirs held.

    So none is ended while it imports what it needs; :func:`ends_at_once` heeds what has come meanwhile.
    """
    resource_tracker.ensure_running()  # started by the first process else, which lets signals through in some Pythons
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*SIGNALS, signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def exit_now(status: int) -> None:
    """End this process, whatever its threads are in."""
    with contextlib.suppress(Exception):
        logging.shutdown()
        sys.stdout.flush()
    os._exit(status)


def _write(text: str) -> None:
    """To standard error, which the main thread may just be writing to itself."""
    with contextlib.suppress(OSError):
        os.write(2, text.encode())
