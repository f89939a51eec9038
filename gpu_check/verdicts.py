"""Runs checks and reports the result of each in one line."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

OK, FAILED, SKIPPED = "ok", "FAILED", "skipped"


class CheckFailedError(Exception):
    """A failed check; the message is the verdict."""


class CheckSkippedError(Exception):
    """A check that can't run here; the message is the reason."""


@dataclass(frozen=True)
class Context:
    """
    Arguments of the checks.

    Attributes:
        device: "cuda", or "cpu" to test the checks themselves.
        folder: folder for rendered data and training runs.
        root: path of the checkout, with ``tools`` and ``configs``.
        methods: keys of the methods to train; empty for all.
    """

    device: str
    folder: Path
    root: Path
    methods: tuple[str, ...] = ()


@dataclass
class Result:
    """
    Result of a check.

    Attributes:
        name: name of the check.
        status: "ok", "FAILED" or "skipped".
        verdict: one line.
        seconds: duration.
        details: measurements, as JSON values.
    """

    name: str
    status: str
    verdict: str
    seconds: float
    details: dict = field(default_factory=dict)

    def line(self) -> str:
        return f"{self.status:7s} {self.name:12s} {self.seconds:6.1f} s  {self.verdict}"

    def as_dict(self) -> dict:
        return asdict(self)


Check = Callable[[Context], "tuple[str, dict]"]


def run_checks(checks: Mapping[str, Check], context: Context) -> Iterator[Result]:
    """
    Run checks one after the other. A failing check does not stop the others.

    Args:
        checks: functions by name; each returns its verdict and details, or raises.
        context: their arguments.

    Yields:
        the result of each check.
    """
    for name, check in checks.items():
        start = time.perf_counter()
        try:
            status, (verdict, details) = OK, check(context)
        except CheckSkippedError as error:
            status, verdict, details = SKIPPED, str(error), {}
        except CheckFailedError as error:
            status, verdict, details = FAILED, _line(error), {"error": str(error)}
        except Exception as error:  # errors of torch or the driver are what the checks are for
            status, verdict, details = FAILED, f"{type(error).__name__}: {_line(error)}", {"error": str(error)}
        yield Result(name, status, verdict, time.perf_counter() - start, details)


def _line(error: Exception) -> str:
    """The last non-empty line of an error, which is the end of a program's output."""
    return next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), "")
