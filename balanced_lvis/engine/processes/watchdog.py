"""A job of several processes ends when one of them has died or does nothing any more, and says which."""

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

logger = logging.getLogger(__name__)

# Seconds for the store's answers where there is no limit to take them from.
_STORE_TIMEOUT = 60.0
# What libraries say where a process that they speak with is gone.
_LOST = re.compile(r"closed by peer|connection (reset|refused|closed)|broken pipe|timed out|nccl|gloo", re.IGNORECASE)


@dataclass
class Progress:
    """
    What the main thread of a process does, for others to judge.

    Attributes:
        stage: in words.
        slow: whether it may take ``WATCHDOG.SLOW_TIMEOUT``.
        waiting: whether it can't go on without the other processes.
        since: of ``time.monotonic()``.
    """

    stage: str = "starting"
    slow: bool = True
    waiting: bool = False
    since: float = field(default_factory=time.monotonic)


_progress = Progress()


def note(stage: str, slow: bool = False, waiting: bool = False) -> None:
    """
    The main thread goes on to something else, or to the next of its kind. Costs nothing, with a watchdog or without.

    Args:
        stage: in words, such as "loading the batch of iteration 7".
        slow: a save, an evaluation: what may take ``WATCHDOG.SLOW_TIMEOUT``.
        waiting: whether it now needs the other processes.
    """
    global _progress
    _progress = Progress(stage, slow, waiting)


@dataclass(frozen=True)
class Limits:
    """
    Seconds after which a job ends.

    Attributes:
        timeout: without a sign of life from a process, or without progress. 0: no verdicts, so that a job only ends
            where a process fails and says so.
        slow_timeout: without progress where it is slow: start-up, evaluation, checkpoints.
    """

    timeout: float = 300.0
    slow_timeout: float = 7200.0

    @classmethod
    def from_config(cls, cfg) -> Limits:
        """
        Raises:
            InputError: if a limit is negative, or the slow one the shorter.
        """
        node = cfg.WATCHDOG
        if node.TIMEOUT < 0:
            raise InputError(f"WATCHDOG.TIMEOUT is {node.TIMEOUT}; it must be seconds, or 0 for no watchdog.")
        if node.SLOW_TIMEOUT < node.TIMEOUT:
            raise InputError(
                f"WATCHDOG.SLOW_TIMEOUT is {node.SLOW_TIMEOUT}, less than WATCHDOG.TIMEOUT {node.TIMEOUT}; it is for "
                "evaluation and checkpoints, which take longer."
            )
        return cls(node.TIMEOUT, node.SLOW_TIMEOUT)


@dataclass
class _Seen:
    """What another process last told, and when that was by our own clock; with its status if it is ending."""

    beat: int
    idle: float
    progress: Progress
    status: int | None
    at: float


class Watchdog:
    """
    Threads that tell the other processes that this one lives, and watch them.

    Every process publishes a count that grows, and what its main thread does since when; every process reads all of
    them. A count that stands still is a process that was killed or stopped, or whose machine is gone. A main thread
    that neither goes on nor waits for others is stuck. As nobody's clock is compared with another's, clocks may differ.

    Args:
        connect: makes a connection of its own to the job's store: one that hangs must not stop the work.
        rank: of this process.
        world_size: of the job.
        limits: see :class:`Limits`.
        store_host: who is to blame where the store is silent.
        keeps_store: whether the store is gone when this process ends.
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
        self._status: int | None = None  # with which it ends, having said why
        self._patience = limits.timeout or _STORE_TIMEOUT
        self._interval = min(self._patience / 10, 20.0)
        self._store = connect()
        self._store.set_timeout(timedelta(seconds=max(self._patience, 1.0)))
        self._seen: dict[int, _Seen] = {}
        self._beat = 0
        self._answered = time.monotonic()
        self._stopped = threading.Event()
        self._threads: list[threading.Thread] = []
        self._publish()

    def start(self) -> None:
        """To be called when all processes have made theirs: what they publish could not be read before."""
        self._answered = time.monotonic()
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._exchange, self._judge)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Watch no longer: others may end."""
        self._stopped.set()
        for thread in self._threads:  # the interpreter must not end under them
            thread.join(timeout=max(self._patience, 1.0))

    def say_goodbye(self, status: int) -> None:
        """
        Stop, and have the other processes end with the same status: this one has failed, and said why.

        Args:
            status: of its exit.
        """
        self.stop()
        note("ending", slow=True)
        self._take_leave(status)

    def explain(self, error: BaseException) -> None:
        """
        Wait for the verdict, which ends this process, if ``error`` is what losing another process looks like.

        Whoever loses the connection to a process that died knows of it before anybody knows which. Where all processes
        go on living, the error is this one's own, such as NCCL's of a device that failed, and is not waited with.
        """
        if not isinstance(error, RuntimeError) or not _LOST.search(str(error)):
            return
        reason = first_line(error)
        logger.info("Another process is lost (%s); finding out which.", reason)
        note(f"stopped by: {reason}", waiting=True)
        # Where there are no verdicts, the other may at least have said why it ends.
        until = time.monotonic() + (self._limits.timeout * 1.5 or self._interval * 3)
        beats = {rank: one.beat for rank, one in dict(self._seen).items()}
        while time.monotonic() < until and not self._stopped.wait(self._interval):
            if self._all_live_since(beats):
                return

    def _all_live_since(self, beats: dict[int, int]) -> bool:
        """
        Whether every process has published since, which takes two beats: the first may have been on its way when its
        process died.
        """
        seen = dict(self._seen)
        return len(beats) == self._world_size and all(seen[rank].beat >= beat + 2 for rank, beat in beats.items())

    def _publish(self) -> None:
        progress = _progress
        self._beat += 1
        told = {"beat": self._beat, "idle": time.monotonic() - progress.since, **asdict(progress)}
        self._store.set(str(self._rank), json.dumps({**told, "status": self._status}))

    def _read(self) -> list[dict]:
        """What every rank last published."""
        return [json.loads(text) for text in self._store.multi_get([str(rank) for rank in range(self._world_size)])]

    def _take_leave(self, status: int) -> None:
        """Have the others end with the same status; whoever keeps the store gives them the time to read it there."""
        self._status = status
        patience = time.monotonic() + self._interval + 1.0
        with contextlib.suppress(RuntimeError):  # if the store is gone, the others know
            self._publish()
            while self._keeps_store and time.monotonic() < patience:
                if all(told["status"] for told in self._read()):
                    return
                time.sleep(0.1)

    def _exchange(self) -> None:
        while not self._stopped.wait(self._interval):
            try:
                self._publish()
                told = self._read()
            except RuntimeError as error:
                if not self._limits.timeout:
                    return
                self._stopped.wait(self._interval)  # whoever keeps the store may be ending the job, and say why
                self._end(f"{self._store_host} is gone ({first_line(error)})", ask=False)
                return
            for rank, one in enumerate(told):
                self._take(rank, one)
            self._answered = time.monotonic()

    def _take(self, rank: int, told: dict) -> None:
        seen = self._seen.get(rank)
        if seen is None or seen.beat != told["beat"]:
            progress = Progress(told["stage"], told["slow"], told["waiting"])
            self._seen[rank] = _Seen(told["beat"], told["idle"], progress, told["status"], time.monotonic())

    def _judge(self) -> None:
        looked = time.monotonic()
        while not self._stopped.wait(self._interval):
            now = time.monotonic()
            if now - looked > 3 * self._interval:  # this process itself was stopped, and has seen nobody meanwhile
                self._answered = now
                for seen in self._seen.values():
                    seen.at = now
            looked = now
            self._follow()
            if not self._limits.timeout:
                continue
            if now - self._answered > 0.8 * self._limits.timeout:
                self._end(f"{self._store_host} doesn't answer for {now - self._answered:.0f} s", ask=False)
            verdict = self._verdict(now)
            if verdict:
                self._end(verdict, ask=True)

    def _follow(self) -> None:
        """End as another process does that has said why, unless the main thread comes to the same in a moment."""
        statuses = {rank: one.status for rank, one in dict(self._seen).items() if one.status}
        if statuses and not self._stopped.wait(1.0):
            rank, status = next(iter(statuses.items()))
            logger.info("Ends as rank %d does, with status %d.", rank, status)
            self._take_leave(status)
            exit_now(status)

    def _verdict(self, now: float) -> str | None:
        """Who is to blame for what, if anybody; a little early, so as to be in time."""
        limit = 0.8 * self._limits.timeout
        seen = dict(self._seen)
        silent = {rank: now - one.at for rank, one in seen.items() if now - one.at > limit}
        if silent:
            return "; ".join(
                f"rank {rank} gives no sign of life for {for_:.0f} s: it was killed or stopped, or its machine is gone"
                for rank, for_ in silent.items()
            )
        stuck = {rank: one for rank, one in seen.items() if one.idle + now - one.at > self._allowed(one)}
        busy = {rank: one for rank, one in stuck.items() if not one.progress.waiting}
        if busy:
            return "; ".join(
                f"rank {rank} is stuck for {one.idle + now - one.at:.0f} s: {one.progress.stage}"
                for rank, one in busy.items()
            )
        if len(stuck) == self._world_size:
            stages = ", ".join(sorted({one.progress.stage for one in stuck.values()}))
            return f"all ranks wait for each other for {limit:.0f} s or more: {stages}"
        return None

    def _allowed(self, one: _Seen) -> float:
        return 0.8 * (self._limits.slow_timeout if one.progress.slow else self._limits.timeout)

    def _end(self, verdict: str, ask: bool) -> None:
        """End this process, whatever its main thread is in; where the store answers, only the first says why."""
        if self._stopped.is_set():
            return
        message = f"{verdict}; the job ends. --resume goes on from the last checkpoint."
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


def first_line(error: Exception) -> str:
    """Of what an error says; libraries append traces of their own."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__
