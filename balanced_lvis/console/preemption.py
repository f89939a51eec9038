"""Handling of preemption signals: stop at once, or after the current step with a checkpoint."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from typing import Any

import torch
import torch.distributed as dist

from ..utils.errors import Preempted
from .signals import SIGNALS


class StopRequest(contextlib.AbstractContextManager):
    """
    Context that catches the signals that ask this process to stop.

    Python handles signals only in the main thread; in other threads, nothing is caught.

    Args:
        unwinds: whether to stop at once by an exception, so that clean-up code runs, even within
            :func:`balanced_lvis.console.signals.ends_at_once`.

    Attributes:
        signal_name: name of the last signal; "another process's signal" if this process received none.
        at_once: whether a signal ends the process immediately, because there is nothing to save: by the handler of
            :func:`balanced_lvis.console.signals.ends_at_once` within that context, and by raising
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
        Handle a signal in a data worker, which has inherited its parent's handlers.

        A scheduler may signal all processes at the same time, but the parent needs its workers for the current step,
        and ends them itself. A worker therefore ignores the first signal.
        """
        if self._wanted:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self._wanted = True

    def is_wanted_anywhere(self) -> bool:
        """Whether any process of the job was asked to stop. A collective call: all processes get the same answer."""
        if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
            return self._wanted
        device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
        wanted = torch.tensor(float(self._wanted), device=device)
        torch.distributed.all_reduce(wanted, torch.distributed.ReduceOp.MAX)
        return bool(wanted)


def _is_of_worker(error: Exception) -> bool:
    """Whether the error is that of an ended data worker, which the same signal can end just after its start."""
    return isinstance(error, RuntimeError) and "DataLoader worker" in str(error)
