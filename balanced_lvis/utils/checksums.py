"""Sizes and CRC-32 checksums of what is stored on the disk: kept with it, compared when it is read."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .io import write_json

MANIFEST = "checksums.json"
_PIECE = 1 << 20  # bytes read at a time


class DamagedFileError(ValueError):
    """A file that is not, or no longer, what was written."""


@dataclass
class Checksum:
    """Of bytes that come one piece after the other."""

    size: int = 0
    crc32: int = 0

    @classmethod
    def of(cls, piece) -> Checksum:
        """Of bytes that are in memory."""
        found = cls()
        found.add(piece)
        return found

    @classmethod
    def of_file(cls, path: str | os.PathLike) -> Checksum:
        """
        Raises:
            OSError: if it can't be read.
        """
        found = cls()
        with open(path, "rb") as file:
            while piece := file.read(_PIECE):
                found.add(piece)
        return found

    def add(self, piece) -> None:
        """
        Args:
            piece: bytes, or a buffer of bytes.
        """
        self.size += len(piece)
        self.crc32 = zlib.crc32(piece, self.crc32)


class CheckedWriter:
    """
    A new file that knows the checksum of what has been written.

    Args:
        path: of the file; one that exists is overwritten.
    """

    def __init__(self, path: str | os.PathLike):
        self._file = open(path, "wb", buffering=_PIECE)  # noqa: SIM115
        self.checksum = Checksum()

    def write(self, piece) -> None:
        """As the file's; counted when it has succeeded."""
        self._file.write(piece)
        self.checksum.add(piece)

    def close(self) -> None:
        """As the file's."""
        self._file.close()


def write_manifest(folder: str | os.PathLike, checksums: dict[str, Checksum]) -> None:
    """
    Store the checksums of a folder's files beside them, in :data:`MANIFEST`.

    Args:
        folder: of the files, all of which are complete.
        checksums: by the files' names.
    """
    write_json(Path(folder, MANIFEST), {name: [found.size, found.crc32] for name, found in checksums.items()})


def read_manifest(folder: str | os.PathLike) -> dict[str, Checksum]:
    """
    What :func:`write_manifest` stored.

    Raises:
        DamagedFileError: if it is missing or damaged.
    """
    path = Path(folder, MANIFEST)
    try:
        content = json.loads(path.read_bytes())
        return {name: Checksum(int(size), int(crc32)) for name, (size, crc32) in content.items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedFileError(f"{path} is missing or damaged ({type(error).__name__}: {error})") from error


def check_folder(folder: str | os.PathLike, names: Iterable[str]) -> dict[str, Checksum]:
    """
    Read files to their ends and compare their sizes and checksums with the manifest's.

    Args:
        folder: of the files and their manifest.
        names: of the files.

    Returns:
        their checksums, by name.

    Raises:
        DamagedFileError: if a file or the manifest is missing, cut off or altered.
    """
    stated = read_manifest(folder)
    if set(stated) != set(names):
        raise DamagedFileError(f"{Path(folder, MANIFEST)} lists {', '.join(stated) or 'nothing'}")
    for name, expected in stated.items():
        check_file(Path(folder, name), expected)
    return stated


def check_file(path: str | os.PathLike, expected: Checksum) -> None:
    """
    Compare one file, its size first, which is quick.

    Raises:
        DamagedFileError: if it is missing, cut off or altered.
    """
    try:
        size = os.path.getsize(path)
        if size != expected.size:
            raise DamagedFileError(f"{path} has {size:,} bytes instead of {expected.size:,}")
        if Checksum.of_file(path) != expected:
            raise DamagedFileError(f"{path} has been altered: its checksum is wrong")
    except OSError as error:
        raise DamagedFileError(f"{path} can't be read: {error.strerror or error}") from error
