"""
Files of named arrays that are mapped into memory.

The layout is: arrays, each on a 64-byte boundary; a JSON header with their places; its length and checksum; a mark. A
truncated file has no mark at its end.
"""

from __future__ import annotations

import json
import mmap
import os
import shutil
import struct
from collections.abc import Iterable
from typing import IO

import numpy as np

from ...utils.checksums import Checksum, DamagedFileError

_MARK = b"lvis-index-4"  # must be changed with every change of the layout or of the meaning of the arrays
_TAIL = struct.Struct(f"<QI{len(_MARK)}s")  # length of the header, its CRC-32, the mark
_ALIGNMENT = 64


class ArrayWriter:
    """
    Writes arrays to an open file.

    Args:
        file: an empty file, open for writing in binary mode.
    """

    def __init__(self, file: IO[bytes]):
        self._file = file
        self._arrays: dict[str, dict] = {}

    def add(self, name: str, pieces: Iterable, dtype: np.dtype | type, checked: bool = True) -> None:
        """
        Append a one-dimensional array.

        Args:
            name: name of the array.
            pieces: buffers whose concatenation is the array.
            dtype: type of the array, stored in little-endian order.
            checked: whether the checksum is verified when the file is opened, which reads the whole array.
        """
        self._file.write(bytes(-self._file.tell() % _ALIGNMENT))
        start, checksum = self._file.tell(), Checksum()
        for piece in pieces:
            self._file.write(piece)
            if checked:
                checksum.add(piece)
        crc = checksum.crc32 if checked else None
        stored = np.dtype(dtype).newbyteorder("<")
        length = (self._file.tell() - start) // stored.itemsize
        self._arrays[name] = {"dtype": stored.str, "offset": start, "length": length, "crc32": crc}

    def add_array(self, name: str, array: np.ndarray) -> None:
        """Append an array that is in memory."""
        array = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        self.add(name, [array.data.cast("B")] if array.size else [], array.dtype)

    def finish(self, header: dict) -> None:
        """Append ``header``, as JSON, together with the places of the arrays."""
        _write_tail(self._file, {**header, "arrays": self._arrays})


class ArrayFile:
    """
    A file that :class:`ArrayWriter` wrote, mapped into memory. All processes share its pages.

    Attributes:
        path: path of the file.
        header: the header that was passed to the writer.
        arrays: read-only arrays by name.

    Raises:
        DamagedFileError: if the file is truncated, damaged or of another version.
        OSError: if it can't be read.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = os.fspath(path)
        with open(self.path, "rb") as file:
            if os.fstat(file.fileno()).st_size < _TAIL.size:
                raise DamagedFileError(f"{self.path} is truncated")
            memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.header, arrays_end = _read_header(memory, self.path)
        self.arrays, end = {}, 0
        for name, place in self.header["arrays"].items():
            dtype = np.dtype(place["dtype"])
            end = place["offset"] + place["length"] * dtype.itemsize
            content = memoryview(memory)[place["offset"] : end]
            if place["crc32"] is not None and Checksum.of(content).crc32 != place["crc32"]:
                raise DamagedFileError(f"{self.path}: {name} is damaged")
            if end > arrays_end:
                break
            self.arrays[name] = np.frombuffer(memory, dtype, place["length"], place["offset"])
        if end != arrays_end:  # bytes were removed or inserted before the header
            raise DamagedFileError(f"{self.path} has {arrays_end:,} bytes of arrays instead of {end:,}")


def copy_with_header(path: str, file: IO[bytes], changes: dict) -> None:
    """
    Copy a file, and change its header.

    Args:
        path: path of the file.
        file: the copy, open and empty.
        changes: {key: new value} of the header.
    """
    with open(path, "rb") as old, mmap.mmap(old.fileno(), 0, access=mmap.ACCESS_READ) as memory:
        header, start = _read_header(memory, path)
        shutil.copyfileobj(old, file)
    file.seek(start)
    file.truncate()
    _write_tail(file, {**header, **changes})


def _write_tail(file: IO[bytes], header: dict) -> None:
    content = json.dumps(header).encode()
    file.write(content + _TAIL.pack(len(content), Checksum.of(content).crc32, _MARK))


def _read_header(memory: mmap.mmap, path: str) -> tuple[dict, int]:
    """The header and its position."""
    length, crc, mark = _TAIL.unpack(memory[-_TAIL.size :])
    start = len(memory) - _TAIL.size - length
    if mark != _MARK:
        raise DamagedFileError(f"{path} is truncated or of another version")
    content = memory[max(start, 0) : -_TAIL.size]
    if start < 0 or Checksum.of(content).crc32 != crc:
        raise DamagedFileError(f"{path}: its header is damaged")
    return json.loads(content), start
