"""The end that a scheduler asks for by a signal: at once, or after the step under way, with a checkpoint."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker

import torch
from detectron2.utils import comm

from ...utils.errors import Preempted

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
# Of a process that was ended by Ctrl-C, as shells have it.
INTERRUPTED = 128 + signal.SIGINT


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

    before = {number: signal.signal(number, end) for number in SIGNALS}
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # a tool's, while it imported
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {*SIGNALS, signal.SIGINT})
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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


class StopRequest(contextlib.AbstractContextManager):
    """
    Whether this process was asked to stop; within its context, the signals are caught that ask for it.

    Outside of a process's main thread nothing is caught, as Python has it.

    Args:
        unwinds: whether the end at once is an exception, for what has to be cleaned up, also within
            :func:`ends_at_once`.

    Attributes:
        signal_name: of the first signal; "another process's signal" if there was none.
        at_once: whether a signal ends the process where it is, for when there is nothing to save: as
            :func:`ends_at_once` does within it, and by :class:`balanced_lvis.utils.errors.Preempted` elsewhere.
    """

    def __init__(self, unwinds: bool = False):
        self.at_once = False
        self._unwinds = unwinds
        self.signal_name = "another process's signal"
        self._wanted = False
        self._process = None
        self._before: dict[int, object] = {}

    def __enter__(self):
        self._process = os.getpid()
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, kind, error, trace):
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
        if self._wanted and isinstance(error, Exception) and (self.at_once or _is_of_worker(error)):
            raise Preempted from error

    def _note(self, number, frame):
        if os.getpid() != self._process:
            self._end_worker(number)
            return
        self._wanted = True
        self.signal_name = signal.Signals(number).name
        if self.at_once:
            outer = self._before.get(number)
            if callable(outer) and not self._unwinds:
                outer(number, frame)
            raise Preempted

    def _end_worker(self, number) -> None:
        """
        For a data worker, which has been forked with its parent's handlers.

        A scheduler may tell all processes at once, but the parent needs its workers for the step under way, and ends
        them itself; so the second signal counts.
        """
        if self._wanted:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self._wanted = True

    def is_wanted_anywhere(self) -> bool:
        """Whether any process of the job was asked to stop; all of them have to ask, and get the same answer."""
        if comm.get_world_size() == 1:
            return self._wanted
        device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
        wanted = torch.tensor(float(self._wanted), device=device)
        torch.distributed.all_reduce(wanted, torch.distributed.ReduceOp.MAX)
        return bool(wanted)


def _is_of_worker(error: Exception) -> bool:
    """Whether a data worker has ended, as it may by the same signal, just after it was forked."""
    return isinstance(error, RuntimeError) and "DataLoader worker" in str(error)
