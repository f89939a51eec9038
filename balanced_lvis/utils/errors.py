"""Exceptions that commands report as one message, and suggestions for misspelt names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """
    An invalid configuration, file or argument.

    The message names the argument, its value and the remedy. Commands print it without a traceback and exit with
    status 2.
    """

    exit_status = 2


class DivergedError(RuntimeError):
    """
    A training run whose losses or gradients are no longer finite.

    Commands print it without a traceback and exit with status 3.
    """

    exit_status = 3


class LostProcessError(RuntimeError):
    """
    A job with a dead or stuck process.

    Commands print it without a traceback and exit with status 5.
    """

    exit_status = 5


class StorageError(InputError):
    """
    A folder or disk that can't be written to because it is full, read-only or unavailable.

    Commands print it without a traceback and exit with status 4.
    """

    exit_status = 4


class Preempted(SystemExit):
    """
    A job that was stopped by SIGTERM or SIGUSR1. It has saved a checkpoint if there was anything to save.

    The same command with ``--resume`` continues it. Processes exit with status 75 (EX_TEMPFAIL in sysexits.h).
    """

    exit_status = 75

    def __init__(self):
        super().__init__(self.exit_status)


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """A suggestion of the most similar valid name, with a leading space; empty if no name is similar."""
    close = difflib.get_close_matches(name, list(valid), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
