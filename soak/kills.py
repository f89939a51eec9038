"""Training runs that are killed repeatedly and must end bit-identical to an undisturbed run."""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import shutil
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

from balanced_lvis.data.config_datasets import prepare_datasets
from balanced_lvis.engine.checkpoints.checkpoint_folder import damage_of
from balanced_lvis.utils import job_lock as lock
from balanced_lvis.utils.errors import InputError, Preempted, StorageError

from .failing_writes import FailingWrites
from .faults import Fault, damage
from .training_process import ITERATIONS, LOSSES, PERIOD, SCREEN, SETTINGS, Attempts, same
from .waiting import exit_status_within, seconds_until_gone

LONGEST = 180.0  # seconds after which an attempt, which takes about five, counts as stuck
ORPHANS = 30.0  # seconds that data workers may outlive a killed main process; they check twice a second
LATEST_KILL = 0.5  # fraction of the duration of an undisturbed run
FAILS = "a write fails"
SECOND_JOB = "with a second job"
# Disturbances of an attempt, with their relative frequencies.
KINDS = {
    "at any moment": 6, "while saving": 5, "by SIGTERM": 1, "by SIGTERM, with its workers": 1, SECOND_JOB: 1, FAILS: 4,
}  # fmt: skip


@dataclass
class KillFigures:
    """
    Figures of the killed training runs.

    Attributes:
        kills: number of kills by kind.
        failed_writes: attempts ended by a failing write, with one message and status 4, by error.
        damages: damage to checkpoints and to last_checkpoint between two attempts, by kind.
        runs: finished runs that were identical to the undisturbed one, by setting.
        iterations: computed iterations, repeated ones included.
        lost: number of iterations that were repeated after each kill, if any.
        lost_with_damage: the same after a kill and damage to the newest checkpoint.
        longest_orphans: longest time in seconds that data workers have outlived a main process.
        failures: descriptions of failures; there should be none.
    """

    kills: Counter = field(default_factory=Counter)
    failed_writes: Counter = field(default_factory=Counter)
    damages: Counter = field(default_factory=Counter)
    runs: Counter = field(default_factory=Counter)
    iterations: int = 0
    lost: list[int] = field(default_factory=list)
    lost_with_damage: list[int] = field(default_factory=list)
    longest_orphans: float = 0.0
    failures: list[str] = field(default_factory=list)

    def as_json(self) -> dict:
        return {
            "kills": sum(self.kills.values()),
            "kills_by_kind": dict(self.kills.most_common()),
            "failed_writes": sum(self.failed_writes.values()),
            "failed_writes_by_error": dict(self.failed_writes.most_common()),
            "damages_by_kind": dict(self.damages.most_common()),
            "runs_equal_to_undisturbed": dict(self.runs),
            "iterations_computed": self.iterations,
            "iterations_lost_at_most_per_kill": max(self.lost, default=0),
            "iterations_lost_at_most_with_damage": max(self.lost_with_damage, default=0),
            "checkpoint_period": PERIOD,
            "iterations_lost_in_all": sum(self.lost + self.lost_with_damage),
            "seconds_that_workers_outlive_a_kill_at_most": round(self.longest_orphans, 1),
            "failures": self.failures,
        }


class KillLoop:
    """
    Runs one training run after the other, cycling through the settings, and kills each repeatedly until it ends.

    Args:
        configs: folder of the configs.
        folder: folder for data and outputs.
        seed: seed of the disturbances.
        settings: names from :data:`.training_process.SETTINGS`; the first stage of a setting must be among them.
    """

    def __init__(self, configs: Path, folder: Path, seed: int, settings: tuple[str, ...] = tuple(SETTINGS)):
        self.configs, self.folder = configs, folder
        self.rng = random.Random(seed)
        self.settings = settings
        self.figures = KillFigures()
        self._references: dict[str, tuple[dict, dict, list]] = {}  # losses by iteration, final state, metrics
        self._latest = 0.0
        self._turn = 0
        self._is_damaged = False  # the newest checkpoint, since the last attempt that computed an iteration

    def run_one(self, until: float = math.inf, at_most: float = math.inf) -> None:
        """
        Kill one training run repeatedly until it has ended, and compare it with an undisturbed one.

        Args:
            until: value of ``time.monotonic()`` after which nothing is killed any more.
            at_most: maximum number of kills.
        """
        name = self.settings[self._turn % len(self.settings)]
        self._turn += 1
        if name not in self._references:
            self._references[name] = self._undisturbed(name)
        attempts = self._attempts(name, "killed")
        shutil.rmtree(attempts.output, ignore_errors=True)
        self._is_damaged = False
        try:
            while not self._attempt(attempts, at_most > 0 and time.monotonic() < until):
                at_most -= 1
            self._compare(attempts, *self._references[name])
            self.figures.runs[name] += 1
        except _SoakError as error:
            self.figures.failures.append(f"{name}: {error}")
            kept = self.folder / f"failure_{len(self.figures.failures)}"
            shutil.move(attempts.output, kept)
        self.figures.iterations += len(attempts.losses())

    def _attempts(self, name: str, kind: str) -> Attempts:
        after = SETTINGS[name].after
        weights = str(self._output(after, "undisturbed") / "model_final.pth") if after else ""
        attempts = Attempts(
            self.configs, self.folder / "data", self._output(name, kind), SETTINGS[name], weights
        )  # fmt: skip
        prepare_datasets(attempts.cfg)
        return attempts

    def _output(self, name: str, kind: str) -> Path:
        return self.folder / kind / name.split(",")[0].replace(" ", "_")

    def _undisturbed(self, name: str) -> tuple[dict, dict, list]:
        attempts = self._attempts(name, "undisturbed")
        shutil.rmtree(attempts.output, ignore_errors=True)
        start = time.monotonic()
        status = self._wait(attempts.start())
        self._latest = LATEST_KILL * (time.monotonic() - start)
        if status != 0:
            raise RuntimeError(f"{name}: the undisturbed run failed with status {status}: {_tail(attempts)}")
        return dict(attempts.losses()), attempts.final_state(), attempts.metrics()

    def _wait(
        self, process: int, seconds: float = LONGEST, number: int = signal.SIGKILL, group: bool = False
    ) -> int:  # fmt: skip
        """
        Wait for a process to end. After ``seconds``, send it a signal, and SIGKILL if it does not end. Its data workers
        must end by themselves.

        Returns:
            the exit status, or the negative number of the signal that ended it.
        """
        status = exit_status_within(process, seconds)
        if status is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process, number) if group else os.kill(process, number)
            status = exit_status_within(process, LONGEST)
        gone = seconds_until_gone(process, ORPHANS) if status is not None else None
        if gone is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process, signal.SIGKILL)
        if status is None:
            os.waitpid(process, 0)
            raise _SoakError(f"the process was still running {LONGEST} s after {signal.Signals(number).name}")
        if gone is None:
            raise _SoakError(
                f"data workers still ran {ORPHANS} s after their main process, which ended with status {status}"
            )
        self.figures.longest_orphans = max(self.figures.longest_orphans, gone)
        return status

    def _attempt(self, attempts: Attempts, is_killed: bool) -> bool:
        """Start a process and disturb it; returns whether it finished the run."""
        before = attempts.losses()
        expected = newest_whole(attempts.output) + 1
        shown = len(attempts.shown())
        kind = self.rng.choices(list(KINDS), list(KINDS.values()))[0] if is_killed else ""
        fault = self._fault(kind, attempts)
        process = attempts.start(fault)
        if kind == SECOND_JOB:
            try:
                _start_a_second_job(attempts.output, process)
            except _SoakError:
                self._wait(process, 0)
                raise
        if kind and not fault:
            number = signal.SIGTERM if kind.startswith("by SIGTERM") else signal.SIGKILL
            status = self._wait(process, self.rng.uniform(0, self._latest), number, group="workers" in kind)
        else:
            status = self._wait(process)
        _check_status(status, kind, attempts)
        if status == StorageError.exit_status:
            _check_message(attempts.shown()[shown:])
        new = attempts.losses()[len(before) :]
        if new:
            _check_start(new[0][0], expected)
            if before and before[-1][0] >= new[0][0]:
                self._note_lost(before[-1][0] + 1 - new[0][0])
            self._is_damaged = False
        if status == 0:
            return True
        self._count(kind, fault)
        if status == Preempted.exit_status and new and newest_whole(attempts.output) != new[-1][0]:
            raise _SoakError(f"stopped by SIGTERM after iteration {new[-1][0]}, but its checkpoint is missing")
        if self.rng.random() < 0.3 and _whole(attempts.output) >= 2:
            kind = damage(attempts.output, self.rng)
            self.figures.damages[kind] += 1
            self._is_damaged |= "last_checkpoint" not in kind
        return False

    def _fault(self, kind: str, attempts: Attempts) -> Fault | FailingWrites | None:
        """The fault to activate in the process, if any."""
        if kind == FAILS:
            return FailingWrites.drawn(self.rng, str(attempts.output), spared=(LOSSES, SCREEN))
        return Fault.drawn(self.rng) if kind == "while saving" else None

    def _count(self, kind: str, fault: Fault | FailingWrites | None) -> None:
        if isinstance(fault, FailingWrites):
            self.figures.failed_writes[os.strerror(fault.code)] += 1
        else:
            self.figures.kills[f"while saving: {fault.place}" if fault else kind] += 1

    def _note_lost(self, iterations: int) -> None:
        if self._is_damaged:
            self.figures.lost_with_damage.append(iterations)
            return
        self.figures.lost.append(iterations)
        if iterations > PERIOD:
            raise _SoakError(
                f"a kill lost {iterations} iterations, but a checkpoint is written every {PERIOD} iterations"
            )

    def _compare(self, attempts: Attempts, losses: dict[int, str], state: dict, metrics: list) -> None:
        for iteration, numbers in attempts.losses():
            if losses.get(iteration) != numbers:
                raise _SoakError(
                    f"losses of iteration {iteration} are {numbers}, but {losses.get(iteration)} in the undisturbed run"
                )
        if not same(attempts.final_state(), state):
            raise _SoakError("the final checkpoint differs from that of the undisturbed run")
        if attempts.metrics() != metrics:
            raise _SoakError(f"metrics.json has {attempts.metrics()}, but {metrics} in the undisturbed run")


class _SoakError(Exception):
    """A run that did not behave as documented."""


def newest_whole(folder: Path) -> int:
    """
    The iteration of the newest intact checkpoint, determined by names and checksums only; -1 if there is none.

    For the folder of a single run. This is independent of the code that resumes.
    """
    whole = [path.stem for path in folder.glob("model_*.pth") if damage_of(path) is None]
    return max((ITERATIONS - 1 if name == "model_final" else int(name.split("_")[1]) for name in whole), default=-1)


def _whole(folder: Path) -> int:
    return sum(damage_of(path) is None for path in folder.glob("model_*.pth"))


def _start_a_second_job(folder: Path, process: int) -> None:
    """Start a job in the folder of a running one and check that it is rejected. The running job is paused meanwhile."""
    text = folder / lock.LOCK
    end = time.monotonic() + LONGEST
    while time.monotonic() < end and os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        os.kill(process, signal.SIGSTOP)
        try:
            if _holder(text) == process:
                with mock.patch.object(lock, "PATIENCE", 0.0), lock.only_job_in(folder):
                    raise _SoakError("a second job was started in the folder of a running one")
        except InputError as error:
            if f"process {process} on host" not in str(error):
                raise _SoakError(f"a second job was rejected with another message: {error}") from error
            return
        finally:
            os.kill(process, signal.SIGCONT)
        time.sleep(0.05)


def _holder(text: Path) -> int | None:
    try:
        return json.loads(text.read_text())["process"]
    except (OSError, ValueError):
        return None


def _check_status(status: int, kind: str, attempts: Attempts) -> None:
    allowed = {0, -signal.SIGKILL}
    if kind == FAILS:
        allowed = {0, StorageError.exit_status}  # 0: only the log was affected, or nothing
    elif not kind:
        allowed = {0}
    elif kind.startswith("by SIGTERM"):
        allowed = {0, Preempted.exit_status}
    if status not in allowed:
        raise _SoakError(f"the process ended with status {status} (disturbance: {kind or 'none'}): {_tail(attempts)}")


def _check_message(shown: str) -> None:
    if "Traceback" in shown or shown.count("error: ") != 1:
        raise _SoakError(f"a write failed, but the output is not a single error message: {shown[-1500:]}")


def _check_start(first: int, expected: int) -> None:
    if first != expected:
        raise _SoakError(
            f"resumed at iteration {first} instead of {expected}, which follows the newest intact checkpoint"
        )


def _tail(attempts: Attempts) -> str:
    return attempts.shown()[-1500:]
