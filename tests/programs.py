"""
Programs of this project in processes of their own that need not import PyTorch and Detectron2 again.

They are forked from a server process that has imported both, which saves most of the CPU time that a test takes. The
server has no threads and has done nothing else. The ranks that such a program starts, and data workers of these, are
forked from the same server.

A new Python, with :mod:`subprocess`, is for tests of imports, early signals, shells and whole process groups, and for
one test of each launcher.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import types
from collections.abc import Callable, Iterator, Mapping
from multiprocessing import forkserver
from pathlib import Path
from unittest import mock

import torch
import torch.multiprocessing

from balanced_lvis.console.signals import SIGNALS
from balanced_lvis.engine.processes import launch
from balanced_lvis.experiments import run_processes
from tests.engine.forking import context


def run(script, *words, timeout: float = 600, **options) -> subprocess.CompletedProcess:
    """As :func:`subprocess.run` for :class:`Program`, with the output as text."""
    with Program(script, *words, **options) as program:
        out, err = program.communicate(timeout)
    return subprocess.CompletedProcess([script, *words], program.returncode, out, err)


@contextlib.contextmanager
def forked_runs() -> Iterator[None]:
    """Context in which the runs of an experiment are forked."""

    def start(command, stdout, env, **_) -> Program:
        return Program(*command[1:], output=stdout.name, env=env)

    with mock.patch.object(run_processes, "subprocess", types.SimpleNamespace(STDOUT=subprocess.STDOUT, Popen=start)):
        yield


class Program:
    """
    A script in a forked process; a context manager that kills it if it is still running.

    Args:
        script: its path; or "-m", with the name of a module as the first word.
        *words: its arguments.
        cwd: its current folder; None for that of this process.
        output: file for both standard output and standard error, which are otherwise separate.
        env: its environment variables; None for those of this process.
        **environ: environment variables besides; by default, "OMP_NUM_THREADS" is 1.

    Attributes:
        pid: process id.
    """

    def __init__(
        self, script, *words, cwd=None, output: os.PathLike | str | None = None, env: Mapping[str, str] | None = None,
        **environ: str,
    ):  # fmt: skip
        self._folder = tempfile.TemporaryDirectory(prefix="program_")
        self._files = [str(output or Path(self._folder.name, name)) for name in ("out", "err")]
        environ = {**(os.environ if env is None else env), "OMP_NUM_THREADS": "1", **environ}
        command = [*map(str, (script, *words))]
        self._name = " ".join(command)
        place = _Place(str(cwd or Path.cwd()), environ, self._files)
        self._process = context.Process(target=_execute, args=(command, place))
        self._process.start()
        self.pid = self._process.pid

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_) -> None:
        self.kill()

    @property
    def returncode(self) -> int | None:
        """The exit status, or the negative number of the signal that ended it; None while it runs."""
        return self._process.exitcode

    poll = returncode.fget

    def wait(self, timeout: float = 600) -> int:
        """
        Raises:
            subprocess.TimeoutExpired: if it runs longer than ``timeout`` seconds.
        """
        self._process.join(timeout)
        if self.returncode is None:
            self.kill()
            raise subprocess.TimeoutExpired(self._name, timeout, *self._shown())
        return self.returncode

    def communicate(self, timeout: float = 600) -> tuple[str, str]:
        """Standard output and standard error, after the end."""
        self.wait(timeout)
        return self._shown()

    def shown(self) -> str:
        """Standard output so far."""
        return self._shown()[0]

    def _shown(self) -> tuple[str, str]:
        files = [Path(path) for path in self._files]
        out, err = (path.read_text(errors="replace") if path.exists() else "" for path in files)
        return out, "" if self._files[0] == self._files[1] else err

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)
        self._process.join()


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where a forked process works, as one that is started with these has it."""

    cwd: str
    environ: dict[str, str]
    files: list[str]

    def enter(self) -> None:
        os.environ.clear()
        os.environ.update(self.environ)
        os.chdir(self.cwd)
        for number, path in enumerate(self.files, start=1):
            os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND), number)
        # By line, so that what was printed before a kill is in the file.
        sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))  # noqa: SIM115
        torch.set_num_threads(int(self.environ["OMP_NUM_THREADS"]))
        if simulated := sys.modules.get("tests.simulated_cuda.state"):
            simulated.STATE.in_forked_process = False  # the server has not used the device, so that this process may
        # For ranks and data workers. Python's documentation has processes share the server that has forked them, but
        # each would start its own.
        forkserver._forkserver.ensure_running = lambda: None  # type: ignore[method-assign]


def _execute(command: list[str], place: _Place) -> None:
    """Run a command in this process, which was just forked."""
    place.enter()
    launch.start_processes = functools.partial(_start_ranks, place)
    script, *words = command
    with contextlib.ExitStack() as stack:
        stack.callback(_flush)
        stack.enter_context(forked_runs())
        if script == "-m":
            sys.path.insert(0, place.cwd)
            sys.argv[:] = words
            runpy.run_module(words[0], run_name="__main__", alter_sys=True)
        else:
            sys.path.insert(0, str(Path(script).parent))
            sys.argv[:] = command
            runpy.run_path(script, run_name="__main__")


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()


def _start_ranks(place: _Place, function: Callable, args: tuple, nprocs: int, join: bool):
    place = dataclasses.replace(place, cwd=os.getcwd(), environ=dict(os.environ))
    start = torch.multiprocessing.start_processes
    return start(_as_rank, (place, function, args), nprocs, join, start_method="forkserver")


def _as_rank(rank: int, place: _Place, function: Callable, arguments: tuple) -> None:
    # As a started rank inherits it; the server does not.
    signal.pthread_sigmask(signal.SIG_BLOCK, {*SIGNALS, signal.SIGINT})
    place.enter()
    function(rank, *arguments)
