"""Atomic writing of files, and reading of regular files only."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import math
import os
import stat
from collections.abc import Iterable, Iterator
from typing import IO

from .errors import InputError
from .text import one_line

_HASHED = 1 << 20  # bytes at a time


# Types of files that are rejected.
_SPECIAL = {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


def open_regular(path: str | os.PathLike, mode: str = "rb", **options) -> IO:
    """
    Open a regular file for reading. Opening a FIFO would wait for a writer, and a device may have no end.

    Args:
        path: path of the file; links are followed.
        mode: "r" or "rb".
        options: options of ``open``, such as ``encoding``.

    Raises:
        InputError: if the path is a FIFO, a socket or a device.
        OSError: as ``open``.
    """
    _refuse_special(path, os.stat(path).st_mode)  # before opening: some devices react to that
    file = open(path, mode, opener=_open_without_waiting, **options)  # noqa: SIM115
    try:
        _refuse_special(path, os.fstat(file.fileno()).st_mode)
    except InputError:
        file.close()
        raise
    return file


def _refuse_special(path: str | os.PathLike, mode: int) -> None:
    kind = _SPECIAL.get(stat.S_IFMT(mode))
    if kind:
        raise InputError(
            f"{one_line(os.fspath(path))} is {kind}; only regular files can be read. Save the data to a file."
        )


def _open_without_waiting(path: str, flags: int) -> int:
    """Open without waiting for a writer, in case the path has become a FIFO since it was checked."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def read_json(path: str | os.PathLike, subject: str, remedy: str):
    """
    Read a small JSON file in UTF-8, with or without a byte order mark.

    Args:
        path: path of the file.
        subject: noun for the file, such as "Analysis", for messages.
        remedy: what to do if it is not valid JSON, for the message.

    Raises:
        InputError: if it can't be read, or is not valid JSON.
    """
    name = f"{subject} {os.fspath(path)!r}"
    try:
        with open_regular(path, "r", encoding="utf-8-sig") as file:
            return json.load(file)
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{name} can't be read: {error.strerror}. Check the path and its permissions.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is not UTF-8; save it as UTF-8.") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name} is not valid JSON ({error}); {remedy}.") from error


def write_json(path: str | os.PathLike, content, indent: int | None = None) -> None:
    """
    Write JSON atomically. The folder is created if needed. NaN becomes null.

    A reader never sees an incomplete file, and an interrupted write keeps the previous file.
    """
    write_text(path, _dumps(content, indent) + "\n")


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write text as UTF-8, atomically as :func:`write_json` does."""
    with replacing(path) as file:
        file.write(text)


def write_json_list(path: str | os.PathLike, batches: Iterable[list]) -> None:
    """
    Write a list as :func:`write_json` does, without holding it in memory.

    Args:
        path: path of the file.
        batches: the items of the list, in batches. The file is the same as ``write_json`` of their concatenation.
    """
    with replacing(path) as file:
        write_list(file, batches)


def write_list(file: IO[str], batches: Iterable[list]) -> None:
    """As :func:`write_json_list`, to an open file."""
    file.write("[")
    separator = ""
    for batch in batches:
        if batch:
            file.write(separator + _dumps(batch)[1:-1])
            separator = ", "
    file.write("]\n")


def _dumps(content, indent: int | None = None) -> str:
    try:
        return json.dumps(content, indent=indent, allow_nan=False)
    except ValueError:
        return json.dumps(nan_to_none(content), indent=indent, allow_nan=False)


@contextlib.contextmanager
def replacing(path: str | os.PathLike, mode: str = "w", make_folder: bool = True) -> Iterator[IO]:
    """
    Open a file that is renamed to ``path`` when it is complete and on disk, and removed if writing fails.

    Only one process may write a path at a time. The temporary file of a killed process is overwritten by the next one.

    Args:
        path: path of the file.
        mode: mode of ``open``; text is UTF-8.
        make_folder: create the folder if needed; if False, a missing folder is an error.
    """
    path = os.fspath(path)
    if make_folder:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    partial = f"{path}.partial"
    try:
        with open(partial, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        _sync_folder(os.path.dirname(path) or ".")
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        raise


def append(path: str | os.PathLike, text: str) -> None:
    """
    Append to a file and flush it to disk. The file is created if needed, its folder is not.

    Args:
        path: path of the file.
        text: text, written as UTF-8.
    """
    is_new = not os.path.exists(path)
    with open(path, "a", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    if is_new:
        _sync_folder(os.path.dirname(path) or ".")


def _sync_folder(folder: str) -> None:
    """Flush a folder to disk, if the system supports it, so that a new name survives a power failure."""
    try:
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
    except OSError as error:
        if error.errno in (errno.EIO, errno.ENOSPC, errno.EDQUOT):  # other errors mean that it is not supported
            raise


def sha256_of(path: str | os.PathLike) -> str:
    """SHA-256 of a file in hexadecimal digits."""
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while content := file.read(_HASHED):
            digest.update(content)
    return digest.hexdigest()


def cached_sha256(path: str | os.PathLike) -> str:
    """As :func:`sha256_of`, but a file is read again only if its size or time of modification has changed."""
    found = os.stat(path)
    return _sha256_of(os.path.abspath(path), found.st_size, found.st_mtime_ns)


@functools.cache
def _sha256_of(path: str, size: int, mtime_ns: int) -> str:
    return sha256_of(path)


def nan_to_none(content):
    """JSON content with None for NaN, at any depth."""
    if isinstance(content, dict):
        return {key: nan_to_none(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [nan_to_none(value) for value in content]
    return None if isinstance(content, float) and math.isnan(content) else content
