"""Checks of output folders, and one-line messages for full, read-only or unavailable disks."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from .errors import InputError, StorageError
from .run_files import CONFIG, DIAGNOSTICS, EMA, ENVIRONMENT, INFERENCE, LOG, METRICS, RESULTS, SAVED_PRIOR

# Errors of disks and folders. Other system errors are bugs and keep their traceback.
_KINDS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is exceeded",
    errno.EROFS: "it is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.ENOENT: "it does not exist",
    errno.ENOTDIR: "a parent folder in its path is a file",
    errno.EISDIR: "a folder has this name",
    errno.EEXIST: "a file has this name",
    errno.EIO: "the disk reported an error",
    errno.ESTALE: "it is no longer on the file server",
    errno.ENAMETOOLONG: "the name is too long",
    errno.EFBIG: "the file is larger than allowed",
}
# Errors that only occur in writing; the others can also occur in reading.
_OF_WRITING = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}
_PROBE = ".writable"
_KEPT_FREE = 64 << 20  # bytes of disk space that stay free
# Files and folders that a run writes to its OUTPUT_DIR.
_FILES = (CONFIG, ENVIRONMENT, LOG, METRICS, RESULTS, SAVED_PRIOR)
_FOLDERS = (INFERENCE, EMA, DIAGNOSTICS)


def check_disk_space(folder: str | os.PathLike, size: int, what: str, remedy: str) -> None:
    """
    Check the free disk space.

    Args:
        folder: the folder that is written to.
        size: number of bytes that will be written.
        what: noun for the data, for the message.
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


def check_writable(folder: str | os.PathLike, argument: str = "OUTPUT_DIR") -> None:
    """
    Create an output folder, and write and delete a small file in it.

    Args:
        folder: path of the folder.
        argument: argument that the user gave, as for :func:`clear_errors`.

    Raises:
        InputError: if the name of the folder is invalid.
        StorageError: if the folder can't be written to, or if a folder has the name of an output file, or the reverse.
    """
    check_folder_name(folder, argument)
    probe = os.path.join(folder, f"{_PROBE}.{os.getpid()}")
    with clear_errors(folder, argument):
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
    Check the name of an output folder. Detectron2 parses paths of checkpoints as URLs, which changes some characters.

    Args:
        folder: path of the folder.
        argument: argument that the user gave, for the message.

    Raises:
        InputError: if the name is invalid.
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
    Check that the output folder of a run still exists. Creating it again would hide that its content is lost.

    Raises:
        StorageError: if the folder does not exist.
    """
    with clear_errors(folder):
        if not os.path.isdir(folder):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fspath(folder))


def check_space(folder: str | os.PathLike, wanted: int) -> None:
    """
    Check the free disk space.

    Args:
        folder: folder to write to.
        wanted: required space in bytes.

    Raises:
        StorageError: if there is less disk space.
    """
    free = shutil.disk_usage(folder).free
    if free < wanted:
        raise StorageError(
            f"OUTPUT_DIR {os.fspath(folder)!r} has {free / 1e6:.0f} MB of free disk space, but one checkpoint takes "
            f"about {wanted / 1e6:.0f} MB; free disk space, or choose another OUTPUT_DIR."
        )


def clear_errors(folder: str | os.PathLike, argument: str = "OUTPUT_DIR") -> AbstractContextManager[None]:
    """
    Context that converts system errors of writing into one-line messages.

    Args:
        folder: output folder, for the message.
        argument: argument that names the folder, for the message. Only OUTPUT_DIR can be that of a training run.

    Raises:
        StorageError: instead of an ``OSError`` caused by a disk or folder, also if torch hides it.
    """

    def message_of(kind: str, cause: OSError) -> str:
        if not _is_in(cause, folder):
            return _other_file(kind, cause)
        at = f" (at {cause.filename})" if cause.filename and os.fspath(cause.filename) != os.fspath(folder) else ""
        of_runs = " A training run continues with --resume: its earlier checkpoints are intact."
        return (
            f"{argument} {os.fspath(folder)!r} can't be written to: {kind}{at}; fix this, or choose another {argument}."
            f"{of_runs if argument == 'OUTPUT_DIR' else ''}"
        )

    return _converted_errors(message_of, lambda cause: cause.errno in _OF_WRITING or _is_in(cause, folder))


def clear_system_errors() -> AbstractContextManager[None]:
    """
    As :func:`clear_errors`, for any file that a command uses.

    Raises:
        StorageError: instead of an ``OSError`` caused by a disk or folder, except for a file that does not exist.
    """
    return _converted_errors(_other_file, lambda cause: cause.errno != errno.ENOENT)


def is_storage_error(error: BaseException | None) -> bool:
    """Whether :func:`clear_system_errors` converts an error into a message, also if torch hides it."""
    cause = _os_error(error) if isinstance(error, (OSError, RuntimeError)) else None
    return cause is not None and cause.errno in _KINDS and cause.errno != errno.ENOENT


def _is_in(cause: OSError, folder: str | os.PathLike) -> bool:
    """Whether an error concerns a file in a folder, the folder itself or one above it, or no named file."""
    if not isinstance(cause.filename, (str, os.PathLike)):
        return True
    path, folder = os.path.abspath(cause.filename), os.path.abspath(folder)
    return os.path.commonpath((path, folder)) in (path, folder)


def _other_file(kind: str, cause: OSError) -> str:
    done = "written" if cause.errno in _OF_WRITING else "read or written"
    return f"{'A file' if cause.filename is None else repr(cause.filename)} can't be {done}: {kind}."


def check_output(path: str | os.PathLike) -> None:
    """
    Check before long work that an output file can be written: create its folder and a temporary file in it.

    Raises:
        StorageError: if that fails, or if ``path`` is a folder.
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
    As :func:`clear_errors`, for the output of a tool.

    Args:
        path: file or folder that the user gave.

    Raises:
        StorageError: instead of an ``OSError`` caused by a disk or folder.
    """
    return _converted_errors(
        lambda kind, cause: f"{os.fspath(path)!r} can't be written: {kind}; fix this, or choose another path."
    )


@contextlib.contextmanager
def _converted_errors(
    message_of: Callable[[str, OSError], str], applies: Callable[[OSError], bool] = lambda cause: True
) -> Iterator[None]:
    """
    Args:
        message_of: makes the message from a value of ``_KINDS`` and the system error.
        applies: whether an error is to be converted.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        cause = _os_error(error)
        if cause is None or cause.errno not in _KINDS or not applies(cause):
            raise
        raise StorageError(message_of(_KINDS[cause.errno], cause)) from error


def _os_error(error: BaseException | None) -> OSError | None:
    """The error itself, or the system error that made torch's writer fail."""
    if isinstance(error, OSError):
        return error
    if hasattr(error, "exit_status"):  # has its own message
        return None
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error if error is not None and error.errno in _OF_WRITING | {errno.EIO, errno.ESTALE} else None
