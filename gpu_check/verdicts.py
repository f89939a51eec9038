"""Checks in turn, each with a verdict of one line."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

OK, FAILED, SKIPPED = "ok", "FAILED", "skipped"


class CheckFailedError(Exception):
    """A check that found a fault; its message is the verdict."""


class CheckSkippedError(Exception):
    """A check that can't be made here; its message is the reason."""


@dataclass(frozen=True)
class Context:
    """
    What checks work with.

    Attributes:
        device: "cuda", or "cpu" to try the checks themselves.
        folder: for rendered data and training runs.
        root: of the checkout, with ``tools`` and ``configs``.
        methods: keys of the methods to train; empty for all.
    """

    device: str
    folder: Path
    root: Path
    methods: tuple[str, ...] = ()


@dataclass
class Result:
    """
    Attributes:
        name: of the check.
        status: "ok", "FAILED" or "skipped".
        verdict: one line.
        seconds: how long it took.
        details: measurements, as JSON can hold them.
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
    Make checks one after the other. One that fails, in whatever way, doesn't keep the others from being made.

    Args:
        checks: by name; each returns its verdict and details, or raises.
        context: what they work with.

    Yields:
        a result as soon as it is there.
    """
    for name, check in checks.items():
        start = time.perf_counter()
        try:
            status, (verdict, details) = OK, check(context)
        except CheckSkippedError as error:
            status, verdict, details = SKIPPED, str(error), {}
        except CheckFailedError as error:
            status, verdict, details = FAILED, _line(error), {"error": str(error)}
        except Exception as error:  # a fault of torch or the driver is what is looked for
            status, verdict, details = FAILED, f"{type(error).__name__}: {_line(error)}", {"error": str(error)}
        yield Result(name, status, verdict, time.perf_counter() - start, details)


def _line(error: Exception) -> str:
    """The last line of an error that has something to say: the end of a program's output."""
    return next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), "")
