"""Fuzzing of parsers in child processes that may crash."""

from __future__ import annotations

import faulthandler
import json
import os
import random
import resource
import signal
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path

from balanced_lvis.utils.errors import InputError

from .targets import Target, targets
from .waiting import exit_status_within

LONGEST = 60.0  # seconds after which a round counts as stuck
# Bytes of additional address space for a process. The files are small, so that a parser needs only its constant share.
# A parser that needs more ends with a MemoryError, which counts as a crash.
MEMORY = 1 << 30


@dataclass
class Tried:
    """
    Results of fuzzing a parser.

    Attributes:
        inputs: number of inputs.
        refused: number of inputs rejected by an InputError.
        crashes: descriptions of all other exceptions, with the path of the kept file.
    """

    inputs: int = 0
    refused: int = 0
    crashes: list[str] = field(default_factory=list)


class Fuzzer:
    """
    Gives each parser mutated files in turn. A parser that ends its process counts as a crash too.

    Args:
        folder: folder for files; those that crash a parser are kept in its subfolder ``crashes``.
        seed: determines the n-th file of a parser.
        parsers: parsers to test; None for :func:`.targets.targets`.
    """

    def __init__(self, folder: Path, seed: int, parsers: list[Target] | None = None):
        self.folder = folder
        self.seed = seed
        self.targets = targets() if parsers is None else parsers
        self.tried = {target.name: Tried() for target in self.targets}

    def run(self, seconds: float, at_most: int = 10**9) -> None:
        """One round over all parsers, each with an equal share of the time and at most ``at_most`` inputs."""
        for target in self.targets:
            self._round(target, seconds / len(self.targets), at_most)

    @property
    def crashes(self) -> list[str]:
        return [f"{name}: {crash}" for name, tried in self.tried.items() for crash in tried.crashes]

    def as_json(self) -> dict:
        parsers = {
            name: {"inputs": tried.inputs, "refused": tried.refused, "crashes": len(tried.crashes)}
            for name, tried in self.tried.items()
        }
        return {"inputs": sum(tried.inputs for tried in self.tried.values()), "parsers": parsers}

    def _round(self, target: Target, seconds: float, at_most: int) -> None:
        folder = self.folder / target.name.replace(" ", "_").replace(",", "")
        folder.mkdir(parents=True, exist_ok=True)
        report = folder / "report.jsonl"
        report.write_bytes(b"")
        tried = self.tried[target.name]
        process = os.fork()
        if not process:
            _in_child(lambda: _work(target, folder, report, self.seed, tried.inputs, seconds, at_most))
        status = _wait(process, seconds + LONGEST)
        lines = [json.loads(line) for line in report.read_text().splitlines()]
        tried.inputs += len(lines)
        tried.refused += sum(line["outcome"] == "refused" for line in lines)
        crashes = [line["outcome"] for line in lines if line["outcome"] not in ("refused", "accepted")]
        if status != 0:
            tried.inputs += 1  # the current one
            crashes.append(
                f"the process ended with status {status} (None: it hung); {(folder / 'screen.txt').read_text()[-800:]}"
            )
            self._keep(folder / target.file_name, target, tried.inputs - 1)
        tried.crashes += crashes

    def _keep(self, path: Path, target: Target, number: int) -> None:
        if path.exists():
            _keep(path, self.folder, target, number)


def _keep(path: Path, folder: Path, target: Target, number: int) -> Path:
    kept = folder / "crashes" / f"{target.name.replace(' ', '_').replace(',', '')}_{number}_{target.file_name}"
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_bytes(path.read_bytes())
    return kept


def spoilt(target: Target, seed: int, number: int) -> bytes:
    """The ``number``-th input of a parser."""
    return target.spoil(target.good, random.Random(f"{seed} {target.name} {number}"))


def outcome_of(target: Target, path: Path) -> str:
    """ "accepted", "refused", or how the parser failed."""
    try:
        target.parse(path)
    except InputError:
        return "refused"
    except Exception:
        return traceback.format_exc(limit=-6)
    return "accepted"


def _in_child(work) -> None:
    status = 1
    try:
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _work(target, folder: Path, report: Path, seed: int, first: int, seconds: float, at_most: int) -> None:
    screen = os.open(folder / "screen.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(screen, stream)
    faulthandler.enable()
    _limit_memory(MEMORY)
    end = time.monotonic() + seconds
    path = folder / target.file_name
    lines = os.open(report, os.O_WRONLY | os.O_APPEND)
    for number in range(first, first + at_most):
        path.write_bytes(spoilt(target, seed, number))
        outcome = outcome_of(target, path)
        if outcome not in ("accepted", "refused"):
            outcome += f" (kept as {_keep(path, folder.parent, target, number)})"
        os.write(lines, json.dumps({"outcome": outcome}).encode() + b"\n")
        if time.monotonic() >= end:
            break


def _limit_memory(size: int) -> None:
    with open("/proc/self/statm", encoding="ascii") as file:
        taken = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + size, resource.RLIM_INFINITY))


def _wait(process: int, seconds: float) -> int | None:
    status = exit_status_within(process, seconds)
    if status is None:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
    return status
