"""A watchdog that ends a job, and names the process, when one of its processes has died or hangs."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import timedelta

import torch.distributed as dist

from ...console.printing import print_error
from ...console.signals import exit_now
from ...utils.errors import InputError, LostProcessError
from ...utils.text import first_line

logger = logging.getLogger(__name__)

# Seconds to wait for the store if WATCHDOG.TIMEOUT is 0.
_STORE_TIMEOUT = 60.0
# Error messages of libraries that have lost the connection to another process.
_LOST = re.compile(r"closed by peer|connection (reset|refused|closed)|broken pipe|timed out|nccl|gloo", re.IGNORECASE)


@dataclass
class Progress:
    """
    The current work of the main thread of a process.

    Attributes:
        stage: a description.
        slow: whether it may take ``WATCHDOG.SLOW_TIMEOUT``.
        waiting: whether it waits for the other processes.
        since: start time, of ``time.monotonic()``.
    """

    stage: str = "starting"
    slow: bool = True
    waiting: bool = False
    since: float = field(default_factory=time.monotonic)


_progress = Progress()


def note(stage: str, slow: bool = False, waiting: bool = False) -> None:
    """
    Report that the main thread starts its next piece of work. The cost is negligible, with or without a watchdog.

    Args:
        stage: a description, such as "loading the batch of iteration 7".
        slow: whether it may take ``WATCHDOG.SLOW_TIMEOUT``, as checkpoints and evaluations may.
        waiting: whether it waits for the other processes.
    """
    global _progress
    _progress = Progress(stage, slow, waiting)


@dataclass(frozen=True)
class Limits:
    """
    Time limits in seconds after which a job ends.

    Attributes:
        timeout: limit without a heartbeat of a process, or without progress. 0 disables the watchdog: the job ends only
            when a process reports an error.
        slow_timeout: limit without progress during slow work: start-up, evaluation, checkpoints.
    """

    timeout: float = 300.0
    slow_timeout: float = 7200.0

    @classmethod
    def from_config(cls, cfg) -> Limits:
        """
        Raises:
            InputError: if a limit is negative, or ``SLOW_TIMEOUT`` is the shorter one.
        """
        node = cfg.WATCHDOG
        if node.TIMEOUT < 0:
            raise InputError(
                f"WATCHDOG.TIMEOUT is {node.TIMEOUT}; it must be a number of seconds, or 0 for no watchdog."
            )
        if node.SLOW_TIMEOUT < node.TIMEOUT:
            raise InputError(
                f"WATCHDOG.SLOW_TIMEOUT is {node.SLOW_TIMEOUT}, less than WATCHDOG.TIMEOUT {node.TIMEOUT}; it is the "
                "limit for evaluation and checkpoints, which take longer. Set it to WATCHDOG.TIMEOUT or more."
            )
        return cls(node.TIMEOUT, node.SLOW_TIMEOUT)


@dataclass
class _Seen:
    """The last message of another process, the time of this process's clock, and the exit status if it is ending."""

    beat: int
    idle: float
    progress: Progress
    status: int | None
    at: float


class Watchdog:
    """
    Threads that send heartbeats to the other processes of the job and watch theirs.

    Every process publishes a counter and the progress of its main thread, and reads those of all processes. A process
    whose counter doesn't change was killed or suspended, or its machine is down. A process whose main thread neither
    progresses nor waits for others is stuck. Clocks of different machines are never compared.

    Args:
        connect: opens a separate connection to the job's store, so that a connection that hangs doesn't block the work.
        rank: rank of this process.
        world_size: number of processes of the job.
        limits: the time limits.
        store_host: host of the store, for the message if the store doesn't answer.
        keeps_store: whether this process hosts the store, which ends with it.
    """

    def __init__(
        self,
        connect: Callable[[], dist.Store],
        rank: int,
        world_size: int,
        limits: Limits,
        store_host: str,
        keeps_store: bool = False,
    ):
        self._rank, self._world_size = rank, world_size
        self._limits = limits
        self._store_host, self._keeps_store = store_host, keeps_store
        self._status: int | None = None  # exit status, once the error was reported
        self._patience = limits.timeout or _STORE_TIMEOUT
        self._interval = min(self._patience / 10, 20.0)
        self._store = connect()
        self._store.set_timeout(timedelta(seconds=max(self._patience, 1.0)))
        self._seen: dict[int, _Seen] = {}
        self._beat = 0
        self._exchanges = 0
        self._answered = time.monotonic()
        self._stopped = threading.Event()
        self._threads: list[threading.Thread] = []
        self._publish()

    def start(self) -> None:
        """Start the threads. All processes must have created their watchdogs before."""
        self._answered = time.monotonic()
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._exchange, self._judge)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop watching; the other processes may end now."""
        self._stopped.set()
        for thread in self._threads:  # before the interpreter ends
            thread.join(timeout=max(self._patience, 1.0))

    def say_goodbye(self, status: int) -> None:
        """
        Stop, and let the other processes end with the same status, after this process has reported an error.

        Args:
            status: exit status of this process.
        """
        self.stop()
        note("ending", slow=True)
        self._take_leave(status)

    def explain(self, error: BaseException) -> None:
        """
        Wait for the watchdog's verdict, which ends this process, if ``error`` may be caused by another process's end.

        A lost connection is noticed before it is known which process has died. If all processes are alive, the error is
        caused by this process, for example by a failed device under NCCL, and the method returns.
        """
        if not isinstance(error, RuntimeError) or not _LOST.search(str(error)):
            return
        reason = first_line(error)
        logger.info("The connection to another process was lost (%s); waiting to learn which.", reason)
        note(f"stopped by: {reason}", waiting=True)
        # Without time limits, the other process may still report why it ends.
        until = time.monotonic() + (self._limits.timeout * 1.5 or self._interval * 3)
        # The exchange under way may have read a beat before its process died; the next one reads the last beat.
        fresh = self._exchanges + 2
        beats: dict[int, int] | None = None
        while time.monotonic() < until and not self._stopped.wait(self._interval):
            if beats is None:
                beats = self._beats() if self._exchanges >= fresh else None
            elif len(beats) == self._world_size and all(now > beats[rank] for rank, now in self._beats().items()):
                return

    def _beats(self) -> dict[int, int]:
        return {rank: one.beat for rank, one in dict(self._seen).items()}

    def _publish(self) -> None:
        progress = _progress
        self._beat += 1
        message = {"beat": self._beat, "idle": time.monotonic() - progress.since, **asdict(progress)}
        self._store.set(str(self._rank), json.dumps({**message, "status": self._status}))

    def _read(self) -> list[dict]:
        """The last message of every rank."""
        return [json.loads(text) for text in self._store.multi_get([str(rank) for rank in range(self._world_size)])]

    def _take_leave(self, status: int) -> None:
        """Let the others end with the same status. The host of the store waits until they have read it."""
        self._status = status
        patience = time.monotonic() + self._interval + 1.0
        with contextlib.suppress(RuntimeError):  # without a store, the others end by themselves
            self._publish()
            while self._keeps_store and time.monotonic() < patience:
                if all(message["status"] for message in self._read()):
                    return
                time.sleep(0.1)

    def _exchange(self) -> None:
        while not self._stopped.wait(self._interval):
            try:
                self._publish()
                messages = self._read()
            except RuntimeError as error:
                if not self._limits.timeout:
                    return
                self._stopped.wait(self._interval)  # the host of the store may be about to report an error
                self._end(f"{self._store_host} is not reachable ({first_line(error)})", ask=False)
                return
            for rank, message in enumerate(messages):
                self._take(rank, message)
            self._answered = time.monotonic()
            self._exchanges += 1

    def _take(self, rank: int, message: dict) -> None:
        seen = self._seen.get(rank)
        if seen is None or seen.beat != message["beat"]:
            progress = Progress(message["stage"], message["slow"], message["waiting"])
            self._seen[rank] = _Seen(message["beat"], message["idle"], progress, message["status"], time.monotonic())

    def _judge(self) -> None:
        looked = time.monotonic()
        while not self._stopped.wait(self._interval):
            now = time.monotonic()
            if now - looked > 3 * self._interval:  # this process was suspended
                self._answered = now
                for seen in self._seen.values():
                    seen.at = now
            looked = now
            self._follow()
            if not self._limits.timeout:
                continue
            if now - self._answered > 0.8 * self._limits.timeout:
                self._end(f"{self._store_host} has not answered for {now - self._answered:.0f} s", ask=False)
            verdict = self._verdict(now)
            if verdict:
                self._end(verdict, ask=True)

    def _follow(self) -> None:
        """End with the status of a process that has reported an error, unless the main thread ends by itself."""
        statuses = {rank: one.status for rank, one in dict(self._seen).items() if one.status}
        if statuses and not self._stopped.wait(1.0):
            rank, status = next(iter(statuses.items()))
            logger.info("Rank %d has ended the job with status %d.", rank, status)
            self._take_leave(status)
            exit_now(status)

    def _verdict(self, now: float) -> str | None:
        """A message about dead or stuck processes, if any; given before the time limit of exchanges is reached."""
        limit = 0.8 * self._limits.timeout
        seen = dict(self._seen)
        silent = {rank: now - one.at for rank, one in seen.items() if now - one.at > limit}
        if silent:
            return "; ".join(
                f"rank {rank} has sent no heartbeat for {for_:.0f} s: it was killed or suspended, or its host is down"
                for rank, for_ in silent.items()
            )
        stuck = {rank: one for rank, one in seen.items() if one.idle + now - one.at > self._allowed(one)}
        busy = {rank: one for rank, one in stuck.items() if not one.progress.waiting}
        if busy:
            return "; ".join(
                f"rank {rank} has been stuck for {one.idle + now - one.at:.0f} s: {one.progress.stage}"
                for rank, one in busy.items()
            )
        if len(stuck) == self._world_size:
            stages = ", ".join(sorted({one.progress.stage for one in stuck.values()}))
            return f"all ranks have been waiting for each other for {limit:.0f} s or more: {stages}"
        return None

    def _allowed(self, one: _Seen) -> float:
        return 0.8 * (self._limits.slow_timeout if one.progress.slow else self._limits.timeout)

    def _end(self, verdict: str, ask: bool) -> None:
        """End this process from this thread. If the store answers, only the first process shows the message."""
        if self._stopped.is_set():
            return
        message = f"{verdict}. The job is stopped; --resume continues from the last checkpoint."
        logger.error(message)
        if not ask or self._is_first():
            print_error(message)
        if ask:
            self._take_leave(LostProcessError.exit_status)
        exit_now(LostProcessError.exit_status)

    def _is_first(self) -> bool:
        try:
            return self._store.add("verdicts", 1) == 1
        except RuntimeError:
            return True
