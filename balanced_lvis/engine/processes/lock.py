"""One job at a time in an output folder."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from typing import IO

from ...utils.errors import InputError
from ...utils.storage import check_folder_name, clear_errors
from ...utils.text import one_line

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

LOCK = ".lock"
# Seconds to wait for a job that is just ending, such as a training run whose comparison was killed and that saves.
PATIENCE = 10.0
_INTERVAL = 0.2
_LONGEST = 4096  # characters of the file that are read
_SHOWN = 300  # characters of a command
_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


@contextlib.contextmanager
def only_job_in(folder: str | os.PathLike, argument: str = "OUTPUT_DIR") -> Iterator[None]:
    """
    Refuse to begin where another job is at work, and have others refuse until this context ends.

    The lock is a record lock of the operating system: it ends with this process, however that ends, on this machine
    and, where a network file system has locks, on others; and data workers that this process forks don't inherit it.
    The file's text only tells who has the lock. It may be left by a job that was killed.

    Args:
        folder: made if need be.
        argument: what the user named it by.

    Raises:
        InputError: if the folder's name can't be used; if another process has the lock, and still has after
            :data:`PATIENCE`.
        StorageError: if the folder can't be written to.
    """
    check_folder_name(folder, argument)
    end = time.monotonic() + PATIENCE
    while True:
        with clear_errors(folder):
            file = _open(folder)
        with file:
            if _is_locked(file, folder):
                if not _is_in_place(file, folder):  # whoever had it has deleted the folder
                    continue
                with clear_errors(folder):
                    _write(file, _this_job())
                try:
                    yield
                finally:
                    with contextlib.suppress(OSError):
                        _write(file, {})
                return
            if time.monotonic() > end:
                raise InputError(
                    f"{argument} {os.fspath(folder)!r} is in use by another job: {_holder(file)}. Wait until it ends "
                    f"or stop it, or choose another {argument}."
                )
        time.sleep(_INTERVAL)


def _open(folder: str | os.PathLike) -> IO[str]:
    os.makedirs(folder, exist_ok=True)
    number = os.open(os.path.join(folder, LOCK), os.O_RDWR | os.O_CREAT, 0o666)
    with contextlib.suppress(OSError):
        os.chmod(number, 0o666)  # so that another user's job can take what a killed one leaves
    return os.fdopen(number, "r+", encoding="utf-8", errors="replace")


def _is_locked(file: IO[str], folder: str | os.PathLike) -> bool:
    """Whether this process has the lock now."""
    if fcntl is None:
        return True
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        if error.errno not in _UNSUPPORTED:
            raise
        logger.warning(
            "The file system of %r has no locks (%s): whether another job writes there is not checked.",
            os.fspath(folder), error.strerror,
        )  # fmt: skip
    return True


def _is_in_place(file: IO[str], folder: str | os.PathLike) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(os.path.join(folder, LOCK)))
    except FileNotFoundError:
        return False


def _this_job() -> dict:
    command = shlex.join(sys.argv)
    return {
        "host": socket.gethostname(),
        "process": os.getpid(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "command": command if len(command) <= _SHOWN else f"{command[:_SHOWN]}...",
    }


def _write(file: IO[str], content: dict) -> None:
    file.seek(0)
    file.truncate()
    if content:
        json.dump(content, file)
    file.flush()


def _holder(file: IO[str]) -> str:
    """Words for the job that has the lock, of a text that anybody may have written."""
    file.seek(0)
    try:
        told = json.loads(file.read(_LONGEST))
        host, process, since, command = (str(told[key]) for key in ("host", "process", "since", "command"))
    except (ValueError, TypeError, KeyError, RecursionError):
        return "its process and command are unknown"
    return one_line(f"process {process} on host {host}, started at {since} by: {command}")
