"""Parallel training runs in processes of a training command, each started after its first stage."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from tqdm import tqdm

from ..console.preemption import StopRequest
from ..utils.errors import InputError, StorageError
from ..utils.job_lock import only_job_in
from ..utils.parent_process import child_environment

FINAL_WEIGHTS = "model_final.pth"
RESULTS = "results.json"
SCREEN = "screen.txt"
TAIL_LINES = 15
LINE_SECONDS = 20
POLL_SECONDS = 0.1
_CONSOLE_COMMAND = Path(__file__).resolve().parents[2] / "balanced_lvis_cli.py"
SHOW_SECONDS = 1.0


@dataclass
class Run:
    """
    A training run.

    Attributes:
        key: unique name.
        title: name to show.
        config_file: its config.
        output: its OUTPUT_DIR.
        overrides: ``KEY VALUE`` pairs.
        after: the run that must have finished before this one starts; None if there is none.
        subcommand: the command of ``balanced-lvis`` that trains it.
    """

    subcommand: ClassVar[str] = "train"

    key: str
    title: str
    config_file: Path
    output: Path
    overrides: tuple[str, ...] = ()
    after: Run | None = None

    def config(self):
        """
        The config with the overrides.

        Raises:
            InputError: if the config is invalid.
        """
        return self.load_config(self.config_file, self.overrides)

    def load_config(self, config_file: Path, overrides: Sequence[str] = ()):
        """
        Load a config of this kind of run.

        Raises:
            InputError: if the config is invalid.
        """
        from ..config import load_config  # needs Detectron2, which runs of another kind may not have

        return load_config(config_file, overrides)

    def command(self, script: Path | None) -> list:
        """
        The command that trains and evaluates, or continues to.

        Args:
            script: path of a script like ``tools/train_net.py``; None: ``balanced-lvis`` with :attr:`subcommand`.
        """
        program = [_CONSOLE_COMMAND, self.subcommand] if script is None else [script]
        words = [*program, "--resume", "--config-file", self.config_file]
        return [sys.executable, *words, *self.overrides, "OUTPUT_DIR", self.output]

    @property
    def weights(self) -> Path:
        """Path of the final model, which exists once training has finished."""
        return self.output / FINAL_WEIGHTS

    def progress(self) -> tuple[int, float]:
        """Number of finished iterations and the last logged loss; 0 and NaN before the first."""
        done, loss = 0, math.nan
        try:
            for line in (self.output / "metrics.json").read_text(encoding="utf-8").splitlines():
                metrics = json.loads(line)
                done, loss = metrics["iteration"] + 1, metrics.get("total_loss", loss)
        except (OSError, ValueError):  # no file yet, or an incomplete last line
            pass
        return done, loss

    def finished(self, cfg) -> bool:
        """Whether the run has finished with this config, and its final model has been evaluated."""
        results, weights = self.output / RESULTS, self.weights
        # With TEST.EVAL_PERIOD, the results of an interrupted run may be those of an earlier model.
        if not results.exists() or not self._has_ended_training() or not self._is_of(cfg):
            return False
        return not weights.exists() or results.stat().st_mtime >= weights.stat().st_mtime

    def _has_ended_training(self) -> bool:
        """According to the last_checkpoint file, which stays if the weights are removed to save disk space."""
        try:
            return (self.output / "last_checkpoint").read_text(encoding="utf-8").strip() == FINAL_WEIGHTS
        except OSError:
            return False

    def discard_other(self, cfg) -> None:
        """Delete the output if it is of another config, as it must not be resumed with this one."""
        if self._config_path.exists() and not self._is_of(cfg):
            self.discard()

    def discard(self) -> None:
        """
        Delete the output.

        Raises:
            InputError: if a job is using the folder.
        """
        if self.output.exists():
            with only_job_in(self.output):
                shutil.rmtree(self.output)

    def load(self, *parts: str):
        """Contents of a JSON file that the run has written."""
        return json.loads(self.output.joinpath(*parts).read_text(encoding="utf-8"))

    def tail(self) -> str:
        """The last lines that the run has printed."""
        lines = (self.output / SCREEN).read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-TAIL_LINES:])

    @property
    def _config_path(self) -> Path:
        return self.output / "config.yaml"

    def _is_of(self, cfg) -> bool:
        path = self._config_path
        return path.exists() and _same_run(self.load_config(path), cfg, self.output)


def _same_run(one, other, output: Path) -> bool:
    """Whether two configs define the same training run, regardless of device and output folder."""
    one, other = one.clone(), other.clone()
    if _from_folder(one.MODEL.WEIGHTS, one.OUTPUT_DIR) == _from_folder(other.MODEL.WEIGHTS, output):
        one.MODEL.WEIGHTS = other.MODEL.WEIGHTS
    one.MODEL.DEVICE, one.OUTPUT_DIR = other.MODEL.DEVICE, other.OUTPUT_DIR
    # As text, because nested tuples become lists in a file.
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _from_folder(weights: str, folder) -> str:
    """Weights relative to the run's folder, which stay the same if both the run and its first stage are moved."""
    return os.path.relpath(weights, folder) if weights and "://" not in weights else weights


def train_all(
    runs: list[Run],
    train_net: Path | None = None,
    jobs: int | None = None,
    on_end: Callable[[Run, float], None] | None = None,
) -> None:
    """
    Train and evaluate runs, resuming those that were interrupted; the first failure ends the others.

    A run starts as soon as fewer than ``jobs`` are running and the run in its ``after`` has finished, in the order of
    the list. The runs share the CPU cores. They end if this process ends, and their checkpoints are kept.

    Args:
        runs: the training runs. An ``after`` that is not among them is not waited for.
        train_net: path of a script like ``tools/train_net.py``; None: ``balanced-lvis`` with the command of the run.
        jobs: number of simultaneous runs; by default one per core, or 1 on a GPU.
        on_end: called with each run that has succeeded and its seconds in this call.

    Raises:
        InputError: if a run fails, with the end of its output, or if ``jobs`` is less than 1.
    """
    jobs, environment = _shares(runs, jobs)
    waiting = list(runs)
    running: list = []
    ended: list = []
    show = _Show(runs)
    with _ended_by_signals():
        try:
            while waiting or running:
                for run in _ready(waiting, ended, runs)[: jobs - len(running)]:
                    waiting.remove(run)
                    running.append(_Process(run, train_net, environment))
                for process in [process for process in running if not process.runs()]:
                    process.check()
                    running.remove(process)
                    ended.append(process.run)
                    if on_end:
                        on_end(process.run, time.monotonic() - process.start)
                show(ended, [process.run for process in running], len(waiting))
                time.sleep(POLL_SECONDS)
        finally:
            for process in running:
                process.end()
            show.close()


def _shares(runs, jobs: int | None) -> tuple[int, dict]:
    """The number of simultaneous runs, and an environment that limits each to its share of the cores."""
    cores = _usable_cores()
    on_gpu = torch.cuda.is_available() and any(run.config().MODEL.DEVICE.startswith("cuda") for run in runs)
    jobs = (1 if on_gpu else cores) if jobs is None else jobs
    if jobs < 1:
        raise InputError(f"jobs is {jobs}; it must be 1 or more.")
    jobs = min(jobs, max(1, len(runs)))
    threads = max(1, cores // jobs)
    return jobs, {**os.environ} if on_gpu else {**os.environ, "OMP_NUM_THREADS": str(threads)}


def _usable_cores() -> int:
    """Cores that this process may use: in a container, fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _ready(waiting, ended, runs) -> list[Run]:
    return [run for run in waiting if run.after is None or run.after in ended or run.after not in runs]


class _Process:
    """The process of a run."""

    def __init__(self, run: Run, train_net: Path | None, environment: dict):
        self.run = run
        self.start = time.monotonic()
        run.output.mkdir(parents=True, exist_ok=True)
        with open(run.output / SCREEN, "w", encoding="utf-8") as screen:
            self._process = subprocess.Popen(
                [*map(str, run.command(train_net))],
                stdout=screen,
                stderr=subprocess.STDOUT,
                env=child_environment(environment),
            )

    def runs(self) -> bool:
        return self._process.poll() is None

    def check(self) -> None:
        """Raises InputError if the run has failed, and StorageError if it could not write."""
        status = self._process.returncode
        if status:
            kind = StorageError if status == StorageError.exit_status else InputError
            raise kind(f"Training {self.run.title} failed with status {status}:\n{self.run.tail()}")

    def end(self) -> None:
        self._process.terminate()  # no effect if it has ended
        self._process.wait()


@contextlib.contextmanager
def _ended_by_signals():
    """A signal to stop raises an exception in the block, so that the processes started there are ended too."""
    with StopRequest(unwinds=True) as stop:
        stop.at_once = True
        yield


class _Show:
    """One progress bar for all runs; plain lines without a terminal."""

    def __init__(self, runs):
        self._iterations = {run.key: run.config().SOLVER.MAX_ITER for run in runs}
        self._terminal = sys.stderr.isatty()
        self._bar = tqdm(total=sum(self._iterations.values()), unit="it", disable=not self._terminal)
        self._every = SHOW_SECONDS if self._terminal else LINE_SECONDS
        self._next = time.monotonic() + (0 if self._terminal else SHOW_SECONDS)

    def __call__(self, ended, running, waiting: int) -> None:
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self._every
        status = [(run, *self._status(run)) for run in running]
        words = [f"{run.title} {message}" for run, _, message in status]
        text = ", ".join([*words, f"{waiting} waiting"] if waiting else words)
        self._bar.update(sum(self._iterations[r.key] for r in ended) + sum(done for _, done, _ in status) - self._bar.n)
        self._bar.set_description_str(text)
        if not self._terminal and text:
            print(text, flush=True)

    def close(self) -> None:
        self._bar.close()

    def _status(self, run: Run) -> tuple[int, str]:
        """Number of finished iterations, and the status to show."""
        iterations = self._iterations[run.key]
        done, loss = run.progress()
        if done >= iterations:  # the iteration logged with the evaluation's results is one higher
            return iterations, "evaluating"
        return done, f"{done}/{iterations} loss {loss:.2f}" if done else "starting"
