"""An output folder that may be full, read-only or gone: found out early, and told in one line."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from ..errors import StorageError

# What a disk or a folder says; other errors of the system are bugs, and keep their traceback.
_KINDS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota is used up",
    errno.EROFS: "it is read-only",
    errno.EACCES: "this user may not write there",
    errno.EPERM: "this user may not write there",
    errno.ENOENT: "it is gone",
    errno.ENOTDIR: "a part of the path is a file",
    errno.EISDIR: "a folder is in the file's place",
    errno.EEXIST: "a file is in the folder's place",
    errno.EIO: "the disk reports an error",
    errno.ESTALE: "the file server has lost it",
    errno.ENAMETOOLONG: "the name is too long",
    errno.EFBIG: "the file is larger than allowed",
}
_PROBE = ".writable"


def check_writable(folder: str | os.PathLike) -> None:
    """
    Make an output folder, and write and delete a small file in it.

    Raises:
        StorageError: if that can't be done.
    """
    probe = os.path.join(folder, f"{_PROBE}.{os.getpid()}")
    with clear_errors(folder):
        os.makedirs(folder, exist_ok=True)
        try:
            with open(probe, "wb") as file:
                file.write(b"\n" * 4096)
                file.flush()
                os.fsync(file.fileno())
        finally:
            with contextlib.suppress(OSError):
                os.unlink(probe)


def check_space(folder: str | os.PathLike, wanted: int) -> None:
    """
    Args:
        folder: to be written to.
        wanted: bytes.

    Raises:
        StorageError: if there is less room.
    """
    free = shutil.disk_usage(folder).free
    if free < wanted:
        raise StorageError(
            f"OUTPUT_DIR {os.fspath(folder)!r} has room for {free / 1e6:.0f} MB, and one checkpoint takes about "
            f"{wanted / 1e6:.0f} MB; free some, or choose another OUTPUT_DIR."
        )


def clear_errors(folder: str | os.PathLike) -> AbstractContextManager[None]:
    """
    A context in which the system's errors of writing are one line.

    Args:
        folder: that is written to, for the message.

    Raises:
        StorageError: in place of an ``OSError`` that a disk or folder causes, also where torch hides it.
    """

    def told(kind: str, cause: OSError) -> str:
        at = f" (at {cause.filename})" if cause.filename and os.fspath(cause.filename) != os.fspath(folder) else ""
        return (
            f"OUTPUT_DIR {os.fspath(folder)!r} can't be written to: {kind}{at}. Checkpoints that were written before "
            "are whole: mend it and go on with --resume, or choose another OUTPUT_DIR."
        )

    return _errors_told(told)


def check_output(path: str | os.PathLike) -> None:
    """
    Before work whose result is a file: make its folder, and a file beside it.

    Raises:
        StorageError: if that can't be done, or ``path`` is a folder.
    """
    probe = f"{os.fspath(path)}{_PROBE}.{os.getpid()}"
    with clear_output_errors(path):
        os.makedirs(os.path.dirname(probe) or ".", exist_ok=True)
        if os.path.isdir(path):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
        try:
            with open(probe, "wb"):
                pass
        finally:
            with contextlib.suppress(OSError):
                os.unlink(probe)


def clear_output_errors(path: str | os.PathLike) -> AbstractContextManager[None]:
    """
    As :func:`clear_errors`, of a tool's output.

    Args:
        path: the file or folder as the user named it.

    Raises:
        StorageError: in place of an ``OSError`` that a disk or folder causes.
    """
    return _errors_told(
        lambda kind, cause: f"{os.fspath(path)!r} can't be written: {kind}; mend it, or name another place."
    )


@contextlib.contextmanager
def _errors_told(told: Callable[[str, OSError], str]) -> Iterator[None]:
    """``told`` makes a message of a value of ``_KINDS`` and the system's error."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        cause = _os_error(error)
        if cause is None or cause.errno not in _KINDS:
            raise
        raise StorageError(told(_KINDS[cause.errno], cause)) from error


def _os_error(error: BaseException | None) -> OSError | None:
    """The error itself, or the one that torch's writer met before it gave up."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error
