"""Exceptions that a command line shows as one message, and words for them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """
    A configuration, file or argument that balanced_lvis cannot work with.

    The message names the argument, the value it had and the remedy. Command lines print it without a
    traceback and exit with status 2.
    """

    exit_status = 2


class DivergedError(RuntimeError):
    """
    A training that can't go on, as its losses or gradients are no longer finite.

    Command lines print it without a traceback and exit with status 3.
    """

    exit_status = 3


class LostProcessError(RuntimeError):
    """
    A job that can't go on, as one of its processes has died or does nothing any more.

    Command lines print it without a traceback and exit with status 5.
    """

    exit_status = 5


class StorageError(InputError):
    """
    A folder or disk that can't be written to: full, read-only, gone.

    Command lines print it without a traceback and exit with status 4.
    """

    exit_status = 4


class Preempted(SystemExit):
    """
    A job that was asked to stop (SIGTERM, SIGUSR1), and has saved a checkpoint if there was anything to save.

    The same command with ``--resume`` continues it. Processes exit with status 75, EX_TEMPFAIL of sysexits.h: try again
    later.
    """

    exit_status = 75

    def __init__(self):
        super().__init__(self.exit_status)


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """The hint at the valid name that a wrong one is close to, with a space before it; empty where none is close."""
    close = difflib.get_close_matches(name, list(valid), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
