"""An output folder that may be full, read-only or gone: found out early, and reported in one line."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from .errors import InputError, StorageError

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
# Only writing meets these; the others may be of a file that is read.
_OF_WRITING = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}
_PROBE = ".writable"
_KEPT_FREE = 64 << 20  # bytes of disk space that stay free
# What a run writes to its OUTPUT_DIR, by name.
_FILES = ("config.yaml", "environment.txt", "log.txt", "metrics.json", "results.json", "class_prior.json")
_FOLDERS = ("inference", "ema", "diagnostics")


def check_disk_space(folder: str | os.PathLike, size: int, what: str, remedy: str) -> None:
    """
    Args:
        folder: the folder that is written to.
        size: number of bytes that will be written.
        what: what they are, for the message.
        remedy: what to do besides freeing disk space, for the message.

    Raises:
        InputError: if there isn't enough free disk space.
    """
    free = shutil.disk_usage(folder).free
    if size + _KEPT_FREE > free:
        raise InputError(
            f"{what} takes {size / 1e9:.2f} GB, but {os.path.abspath(folder)} has {free / 1e9:.2f} GB free; free disk "
            f"space, or {remedy}."
        )


def check_writable(folder: str | os.PathLike) -> None:
    """
    Make an output folder, and write and delete a small file in it.

    Raises:
        InputError: if its name can't be used.
        StorageError: if that can't be done, or a folder stands where a file is to be written, or the reverse.
    """
    check_folder_name(folder)
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
        for name in _FILES:
            if os.path.isdir(path := os.path.join(folder, name)):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        for name in _FOLDERS:
            if os.path.isfile(path := os.path.join(folder, name)):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)


def check_folder_name(folder: str | os.PathLike, argument: str = "OUTPUT_DIR") -> None:
    """
    Detectron2 reads the path of a checkpoint as a URL, which drops or changes some characters.

    Args:
        folder: to write to.
        argument: what the user named it by.

    Raises:
        InputError: if its name can't be used.
    """
    folder, remedy = os.fspath(folder), "choose another name"
    if not folder:
        raise InputError(f"{argument} is empty; {remedy}.")
    bad = sorted({letter for letter in folder if letter == "?" or not letter.isprintable()})
    if bad:
        raise InputError(f"{argument} {folder!r} has {', '.join(map(repr, bad))} in its name; {remedy}.")
    if folder != folder.strip() or "://" in folder:
        raise InputError(f"{argument} {folder!r} begins or ends with a space, or is a URL; {remedy}.")


def check_present(folder: str | os.PathLike) -> None:
    """
    Raises:
        StorageError: if a run's output folder is gone; making it again would hide that all in it is lost.
    """
    with clear_errors(folder):
        if not os.path.isdir(folder):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fspath(folder))


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
        if not _is_in(cause, folder):
            return _other_file(kind, cause)
        at = f" (at {cause.filename})" if cause.filename and os.fspath(cause.filename) != os.fspath(folder) else ""
        return (
            f"OUTPUT_DIR {os.fspath(folder)!r} can't be written to: {kind}{at}. Checkpoints that were written before "
            "are whole: fix it and continue with --resume, or choose another OUTPUT_DIR."
        )

    return _errors_told(told, lambda cause: cause.errno in _OF_WRITING or _is_in(cause, folder))


def clear_system_errors() -> AbstractContextManager[None]:
    """
    As :func:`clear_errors`, for a command line: whatever file it is.

    Raises:
        StorageError: in place of an ``OSError`` that a disk or folder causes; not for a file that doesn't exist.
    """
    return _errors_told(_other_file, lambda cause: cause.errno != errno.ENOENT)


def is_storage_error(error: BaseException | None) -> bool:
    """Whether an error is one that :func:`clear_system_errors` makes a message of, also where torch hides it."""
    cause = _os_error(error) if isinstance(error, (OSError, RuntimeError)) else None
    return cause is not None and cause.errno in _KINDS and cause.errno != errno.ENOENT


def _is_in(cause: OSError, folder: str | os.PathLike) -> bool:
    """Whether an error is of a file in a folder, or of the folder itself or one above it; or names no file."""
    if not isinstance(cause.filename, (str, os.PathLike)):
        return True
    path, folder = os.path.abspath(cause.filename), os.path.abspath(folder)
    return os.path.commonpath((path, folder)) in (path, folder)


def _other_file(kind: str, cause: OSError) -> str:
    done = "written" if cause.errno in _OF_WRITING else "read or written"
    return f"{'A file' if cause.filename is None else repr(cause.filename)} can't be {done}: {kind}."


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
        lambda kind, cause: f"{os.fspath(path)!r} can't be written: {kind}; fix it, or name another place."
    )


@contextlib.contextmanager
def _errors_told(
    told: Callable[[str, OSError], str], applies: Callable[[OSError], bool] = lambda cause: True
) -> Iterator[None]:
    """
    Args:
        told: makes a message of a value of ``_KINDS`` and the system's error.
        applies: whether an error is one to make a message of.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        cause = _os_error(error)
        if cause is None or cause.errno not in _KINDS or not applies(cause):
            raise
        raise StorageError(told(_KINDS[cause.errno], cause)) from error


def _os_error(error: BaseException | None) -> OSError | None:
    """The error itself, or the one that torch's writer met before it gave up."""
    if isinstance(error, OSError):
        return error
    if hasattr(error, "exit_status"):  # a message of its own
        return None
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error if error is not None and error.errno in _OF_WRITING | {errno.EIO, errno.ESTALE} else None
