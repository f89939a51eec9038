"""Files that are written whole or not at all, and those that are read only if they are regular ones."""

from __future__ import annotations

import contextlib
import errno
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


# What else a path can lead to, as stat tells.
_SPECIAL = {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


def open_regular(path: str | os.PathLike, mode: str = "rb", **options) -> IO:
    """
    As ``open`` for reading, of a regular file only: a FIFO would wait for a writer, and a device may never end.

    Args:
        path: of the file; links are followed.
        mode: as for ``open``, "r" or "rb".
        options: as for ``open``, such as ``encoding``.

    Raises:
        InputError: if it is a FIFO, a socket or a device.
        OSError: as of ``open``.
    """
    _refuse_special(path, os.stat(path).st_mode)  # before opening, which some devices act on
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
        raise InputError(f"{one_line(os.fspath(path))} is {kind}, and only regular files are read; save it as a file.")


def _open_without_waiting(path: str, flags: int) -> int:
    """What has become a FIFO since it was looked at doesn't wait for a writer either."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def write_json(path: str | os.PathLike, content, indent: int | None = None) -> None:
    """
    Write JSON through a temporary name in the same folder, which is made if need be. NaN becomes null.

    A reader never sees a half-written file, and an interrupted write leaves the previous one.
    """
    text = _dumps(content, indent)
    with replacing(path) as file:
        file.write(text + "\n")


def write_json_list(path: str | os.PathLike, batches: Iterable[list]) -> None:
    """
    As :func:`write_json` of one list, which never is in memory as a whole.

    Args:
        path: the file to write.
        batches: the list's items, some at a time; the file holds what ``write_json`` of their concatenation holds.
    """
    with replacing(path) as file:
        write_list(file, batches)


def write_list(file: IO[str], batches: Iterable[list]) -> None:
    """The same to an open file."""
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
        return json.dumps(_nan_to_none(content), indent=indent, allow_nan=False)


@contextlib.contextmanager
def replacing(path: str | os.PathLike, mode: str = "w", make_folder: bool = True) -> Iterator[IO]:
    """
    A file that takes the name ``path`` when it is complete and on disk, and is gone if it doesn't get that far.

    For one process at a time; what a killed one leaves, the next overwrites.

    Args:
        path: the file to write.
        mode: as for ``open``; text is UTF-8.
        make_folder: whether its folder is made if need be; otherwise a missing one is an error.
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
    Add to the end of a file, which is made if need be, but not its folder; on disk when this returns.

    Args:
        path: the file.
        text: written as UTF-8.
    """
    is_new = not os.path.exists(path)
    with open(path, "a", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    if is_new:
        _sync_folder(os.path.dirname(path) or ".")


def _sync_folder(folder: str) -> None:
    """Bring a new name in a folder to disk, where the system can; a power cut could take it back else."""
    try:
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
    except OSError as error:
        if error.errno in (errno.EIO, errno.ENOSPC, errno.EDQUOT):  # others say that there is no such thing
            raise


def sha256_of(path: str | os.PathLike) -> str:
    """The SHA-256 of a file's content, in hexadecimal digits; read a piece at a time."""
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while content := file.read(_HASHED):
            digest.update(content)
    return digest.hexdigest()


def _nan_to_none(content):
    if isinstance(content, dict):
        return {key: _nan_to_none(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_nan_to_none(value) for value in content]
    return None if isinstance(content, float) and math.isnan(content) else content
