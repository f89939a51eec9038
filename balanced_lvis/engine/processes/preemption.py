"""The end that a scheduler asks for by a signal: at once, or after the step under way, with a checkpoint."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from typing import Any

import torch
from detectron2.utils import comm

from ...console.signals import SIGNALS
from ...utils.errors import Preempted


class StopRequest(contextlib.AbstractContextManager):
    """
    Whether this process was asked to stop; within its context, the signals are caught that ask for it.

    Outside of a process's main thread nothing is caught, as Python has it.

    Args:
        unwinds: whether the end at once is an exception, for what has to be cleaned up, also within
            :func:`balanced_lvis.console.signals.ends_at_once`.

    Attributes:
        signal_name: of the first signal; "another process's signal" if there was none.
        at_once: whether a signal ends the process where it is, for when there is nothing to save: as
            :func:`balanced_lvis.console.signals.ends_at_once` does within it, and by
            :class:`balanced_lvis.utils.errors.Preempted` elsewhere.
    """

    def __init__(self, unwinds: bool = False):
        self.at_once = False
        self._unwinds = unwinds
        self.signal_name = "another process's signal"
        self._wanted = False
        self._process: int | None = None
        self._before: dict[int, Any] = {}

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
