"""The end that a scheduler asks for by a signal: after the step under way, with a checkpoint."""

from __future__ import annotations

import contextlib
import os
import signal
import threading

import torch
from detectron2.utils import comm

from ...errors import Preempted

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class StopRequest(contextlib.AbstractContextManager):
    """
    Whether this process was asked to stop; within its context, the signals are caught that ask for it.

    Outside of a process's main thread nothing is caught, as Python has it.

    Attributes:
        signal_name: of the first signal; "another process's signal" if there was none.
        at_once: whether a signal ends the process where it is, by :class:`balanced_lvis.errors.Preempted`; for when
            there is nothing to save.
    """

    def __init__(self):
        self.at_once = False
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
