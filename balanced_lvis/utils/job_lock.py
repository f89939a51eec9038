"""A lock that allows one job at a time in an output folder."""

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

from .errors import InputError
from .storage import check_folder_name, clear_errors
from .text import one_line

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

LOCK = ".lock"
# Seconds to wait for a job that is about to end, such as a training run that saves after its comparison was killed.
PATIENCE = 10.0
_INTERVAL = 0.2
_LONGEST = 4096  # characters read from the file
_SHOWN = 300  # characters of a command in a message
_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


@contextlib.contextmanager
def only_job_in(folder: str | os.PathLike, argument: str = "OUTPUT_DIR") -> Iterator[None]:
    """
    Context in which this process holds the lock of an output folder.

    The lock is a record lock of the operating system. It is released when the process ends for any reason, and it is
    visible to other machines if the network file system supports locks. Data workers don't inherit it. The text of the
    file only names the holder, and may be left over from a job that was killed.

    Args:
        folder: the output folder; created if necessary.
        argument: the argument that names the folder, for messages.

    Raises:
        InputError: if the folder's name is invalid, or another process holds the lock for longer than
            :data:`PATIENCE`.
        StorageError: if the folder can't be written to.
    """
    check_folder_name(folder, argument)
    end = time.monotonic() + PATIENCE
    while True:
        with clear_errors(folder, argument):
            file = _open(folder)
        with file:
            if _is_locked(file, folder):
                if not _is_in_place(file, folder):  # the previous holder has deleted the folder
                    continue
                with clear_errors(folder, argument):
                    _write(file, _this_job())
                try:
                    yield
                finally:
                    with contextlib.suppress(OSError):
                        _write(file, {})
                return
            if time.monotonic() > end:
                raise InputError(
                    f"{argument} {os.fspath(folder)!r} is in use by another job: {_holder(file)}. Wait until it ends, "
                    f"stop it, or choose another {argument}."
                )
        time.sleep(_INTERVAL)


def _open(folder: str | os.PathLike) -> IO[str]:
    os.makedirs(folder, exist_ok=True)
    number = os.open(os.path.join(folder, LOCK), os.O_RDWR | os.O_CREAT, 0o666)
    with contextlib.suppress(OSError):
        os.chmod(number, 0o666)  # another user's job can reuse the file after a job was killed
    return os.fdopen(number, "r+", encoding="utf-8", errors="replace")


def _is_locked(file: IO[str], folder: str | os.PathLike) -> bool:
    """Try to take the lock, and return whether this process holds it."""
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
            "The file system of %r doesn't support locks (%s): jobs that write to the same folder are not detected.",
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
    """A description of the job that holds the lock; the file may have any content."""
    file.seek(0)
    try:
        content = json.loads(file.read(_LONGEST))
        host, process, since, command = (str(content[key]) for key in ("host", "process", "since", "command"))
    except (ValueError, TypeError, KeyError, RecursionError):
        return "its process and command are unknown"
    return one_line(f"process {process} on host {host}, started at {since} by: {command}")
