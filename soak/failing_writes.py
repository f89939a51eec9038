"""Simulation of a full or failing disk in one process, without special permissions."""

from __future__ import annotations

import builtins
import contextlib
import errno
import functools
import io
import math
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from unittest import mock

CODES = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS)
_LATEST = 3000  # about the number of writes of one attempt
_CREATING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


@dataclass
class FailingWrites:
    """
    Makes one write, open, rename, fsync or mkdir below a folder fail; or that one and all later ones.

    Data is written to a file in the same pieces as Python writes it to the disk.

    Attributes:
        folder: files below this folder are affected.
        number: number of the first operation that fails, from 1.
        code: errno of the error.
        lasting: whether all later operations fail too.
        spared: names of files that never fail.
        count: number of operations so far.
    """

    folder: str
    number: int
    code: int = errno.ENOSPC
    lasting: bool = True
    spared: tuple[str, ...] = ()
    count: int = 0

    @classmethod
    def drawn(cls, rng: random.Random, folder: str, spared: tuple[str, ...] = ()) -> FailingWrites:
        number = round(math.exp(rng.uniform(0, math.log(_LATEST))))
        return cls(folder, number, rng.choice(CODES), rng.random() < 0.5, spared)

    @property
    def has_failed(self) -> bool:
        return self.count >= self.number

    def arm(self) -> None:
        """Activate the failures in this process permanently."""
        self._kept = self.armed()  # otherwise it would end with its context
        self._kept.__enter__()

    @contextlib.contextmanager
    def armed(self) -> Iterator[None]:
        """Context in which writes fail."""
        opened = functools.partial(self._open, open)
        with contextlib.ExitStack() as stack:
            for module, name, function in (
                (builtins, "open", opened),
                (io, "open", opened),
                (os, "open", functools.partial(self._os_open, os.open)),
                (os, "fsync", functools.partial(self._fsync, os.fsync)),
                (os, "mkdir", functools.partial(self._of_path, os.mkdir)),
                (os, "rename", functools.partial(self._of_path, os.rename)),
                (os, "replace", functools.partial(self._of_path, os.replace)),
            ):
                stack.enter_context(mock.patch.object(module, name, function))
            yield

    def write(self, path, is_named: bool = True) -> None:
        """
        Count an operation.

        Args:
            path: path of the file or folder.
            is_named: whether the error contains the path; that of an open file does not.

        Raises:
            OSError: if the operation is one that fails.
        """
        if not self._concerns(path):
            return
        self.count += 1
        if self.count == self.number or (self.lasting and self.count > self.number):
            raise OSError(self.code, os.strerror(self.code), *([os.fspath(path)] if is_named else []))

    def _concerns(self, path) -> bool:
        if not isinstance(path, (str, os.PathLike)):
            return False
        path = os.path.abspath(path)
        return path.startswith(os.path.abspath(self.folder) + os.sep) and os.path.basename(path) not in self.spared

    def _open(self, function, file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, *rest, **options):
        if not set(mode) & set("wax+") or not self._concerns(file):
            return function(file, mode, buffering, encoding, errors, newline, *rest, **options)
        self.write(file)
        raw = _Raw(os.fspath(file), mode.replace("b", "").replace("t", ""), self)
        if buffering == 0:
            return raw
        buffered = (io.BufferedRandom if "+" in mode else io.BufferedWriter)(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding, errors, newline)

    def _os_open(self, function, path, flags, *rest, **options):
        if flags & _CREATING:
            self.write(path)
        return function(path, flags, *rest, **options)

    def _fsync(self, function, number):
        with contextlib.suppress(FileNotFoundError):
            self.write(os.readlink(f"/proc/self/fd/{number}"), is_named=False)
        return function(number)

    def _of_path(self, function, path, *rest, **options):
        self.write(path)
        return function(path, *rest, **options)


class _Raw(io.FileIO):
    """A file whose writes are counted."""

    def __init__(self, path: str, mode: str, writes: FailingWrites):
        super().__init__(path, mode)
        self._writes = writes

    def write(self, data) -> int:
        self._writes.write(self.name, is_named=False)
        return super().write(data)
