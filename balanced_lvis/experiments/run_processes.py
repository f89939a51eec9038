"""Parallel training runs in processes of a training command, each started after its first stage."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import torch

from ..console.preemption import StopRequest
from ..utils.errors import InputError, StorageError
from ..utils.parent_process import child_environment
from .run_progress import Progress, Reporter, box_and_mask_ap
from .runs import SCREEN, Run, discard_stale, unfinished, with_first_stages
from .time_estimate import note_seconds, time_line

POLL_SECONDS = 0.1
GPUS = "CUDA_VISIBLE_DEVICES"


def run_all(
    chosen: list[Run],
    runs: list[Run],
    output: Path,
    program: Path | None = None,
    jobs: int | None = None,
    prepare: Callable[[list[Run]], None] | None = None,
    describe: Callable[[dict], str] = box_and_mask_ap,
) -> tuple[int, int]:
    """
    Start the runs that have not finished and those that they build on, after a line with the estimated time.

    Args:
        chosen: the runs to finish.
        runs: these and all others in the folder that may start from them.
        output: folder of the experiment, for messages.
        program, jobs: as of :func:`train_all`.
        prepare: called with the runs to start, before outputs of other configs are deleted.
        describe: as of :class:`.run_progress.Reporter`.

    Returns:
        the number of runs that were started; the number of those that had already finished.

    Raises:
        InputError: as :func:`train_all`, if a folder to delete is in use, or if the weights of a first stage were
            removed.
    """
    chosen = with_first_stages(chosen)
    to_do = unfinished(chosen)
    if prepare:
        prepare(to_do)
    discard_stale(to_do, with_first_stages(runs), output)
    kept = len(chosen) - len(to_do)
    print(f"{len(to_do)} runs to train and evaluate, {kept} already finished", flush=True)
    if line := time_line(to_do, chosen, number_of_jobs(to_do, jobs, len(chosen))):
        print(line, flush=True)
    train_all(to_do, program, jobs, Reporter(len(to_do), describe), num_runs=len(chosen))
    return len(to_do), kept


def made_by(command: str, seeds: list[int], start: float, to_do: int, kept: int) -> str:
    """
    The last sentence of a page of results.

    Args:
        command: the command line.
        seeds: seeds of the experiment.
        start: ``time.monotonic()`` at its start.
        to_do, kept: from :func:`run_all`.
    """
    minutes = (time.monotonic() - start) / 60
    return (
        f"Made by `{command}` with {len(seeds)} seed{'s' * (len(seeds) > 1)}: {to_do} runs in {minutes:.1f} minutes; "
        f"{kept} had already finished."
    )


def train_all(
    runs: list[Run],
    program: Path | None = None,
    jobs: int | None = None,
    on_end: Callable[[Run, float], None] | None = None,
    num_runs: int | None = None,
) -> None:
    """
    Train and evaluate runs, resuming those that were interrupted; the first failure ends the others.

    A run starts as soon as fewer than ``jobs`` are running and the run in its ``after`` has finished, in the order of
    the list. The runs share the CPU cores. With several GPUs, each run has its own, as far as there are enough. All end
    if this process ends, and their checkpoints are kept.

    Args:
        runs: the training runs. An ``after`` that is not among them is not waited for.
        program: path of a program with the commands of ``balanced-lvis``; None: ``balanced-lvis`` itself.
        jobs: number of simultaneous runs; by default one per core, or one per GPU if they use GPUs.
        on_end: called with each run that has succeeded and its seconds in this call.
        num_runs: number of runs that share the cores, those that have finished included, so that the last run of a
            resumed experiment has as many threads as in an uninterrupted one; by default, that of ``runs``.

    Raises:
        InputError: if a run fails, with the end of its output, or if ``jobs`` is less than 1.
    """
    jobs, environment = _shares(runs, jobs, num_runs or len(runs))
    if not runs:
        return
    gpus = _gpus_to_share(runs)
    waiting = list(runs)
    running: list = []
    ended: list = []
    progress = Progress(runs)
    with _ended_by_signals():
        try:
            while waiting or running:
                for run in _ready(waiting, ended, runs)[: jobs - len(running)]:
                    waiting.remove(run)
                    gpu = _least_used(gpus, [process.gpu for process in running])
                    running.append(_Process(run, program, environment, gpu))
                for process in [process for process in running if not process.runs()]:
                    process.check()
                    running.remove(process)
                    ended.append(process.run)
                    seconds = time.monotonic() - process.start
                    note_seconds(process.run, seconds)
                    if on_end:
                        on_end(process.run, seconds)
                progress(ended, [process.run for process in running], waiting)
                time.sleep(POLL_SECONDS)
        finally:
            for process in running:
                process.end()
            progress.close()
            for process in running:  # interrupted or failed: they may be resumed
                note_seconds(process.run, time.monotonic() - process.start)


def number_of_jobs(runs: list[Run], jobs: int | None, num_runs: int) -> int:
    """How many runs :func:`train_all` starts at a time; the arguments are its own."""
    return _shares(runs, jobs, num_runs)[0]


def _shares(runs, jobs: int | None, num_runs: int) -> tuple[int, dict]:
    """The number of simultaneous runs, and an environment that limits each to its share of the cores."""
    cores = _usable_cores()
    on_gpu = torch.cuda.is_available() and any(run.config().MODEL.DEVICE.startswith("cuda") for run in runs)
    jobs = (max(1, len(_gpus_to_share(runs))) if on_gpu else cores) if jobs is None else jobs
    if jobs < 1:
        raise InputError(f"jobs is {jobs}; it must be 1 or more.")
    jobs = min(jobs, max(1, num_runs))
    threads = max(1, cores // jobs)
    return jobs, {**os.environ} if on_gpu else {**os.environ, "OMP_NUM_THREADS": str(threads)}


def _usable_cores() -> int:
    """Cores that this process may use: in a container, fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _gpus_to_share(runs) -> list[str]:
    """The GPUs that this process may use, if there are several, and if the runs don't name theirs."""
    if not torch.cuda.is_available() or any(run.config().MODEL.DEVICE != "cuda" for run in runs):
        return []
    visible = os.environ.get(GPUS)
    names = visible.split(",") if visible else list(map(str, range(torch.cuda.device_count())))
    return names[: torch.cuda.device_count()] if len(names) > 1 else []


def _least_used(gpus: list[str], in_use: list[str | None]) -> str | None:
    return min(gpus, key=in_use.count) if gpus else None


def _ready(waiting, ended, runs) -> list[Run]:
    return [run for run in waiting if run.after is None or run.after in ended or run.after not in runs]


class _Process:
    """The process of a run, on a GPU of its own if ``gpu`` names one."""

    def __init__(self, run: Run, program: Path | None, environment: dict, gpu: str | None):
        self.run = run
        self.gpu = gpu
        self.start = time.monotonic()
        if gpu is not None:
            environment = {**environment, GPUS: gpu}
        run.output.mkdir(parents=True, exist_ok=True)
        run.note_start()
        with open(run.output / SCREEN, "w", encoding="utf-8") as screen:
            self._process = subprocess.Popen(
                [*map(str, run.command(program))],
                stdout=screen,
                stderr=subprocess.STDOUT,
                env=child_environment(environment),
            )

    def runs(self) -> bool:
        return self._process.poll() is None

    def check(self) -> None:
        """Note that the run has ended; raises InputError if it has failed, and StorageError if it could not write."""
        status = self._process.returncode
        if status:
            kind = StorageError if status == StorageError.exit_status else InputError
            raise kind(f"{self.run.verb} {self.run.title} failed with status {status}:\n{self.run.tail()}")
        self.run.note_success()

    def end(self) -> None:
        self._process.terminate()  # no effect if it has ended
        self._process.wait()


@contextlib.contextmanager
def _ended_by_signals():
    """A signal to stop raises an exception in the block, so that the processes started there are ended too."""
    with StopRequest(unwinds=True) as stop:
        stop.at_once = True
        yield
