"""Sizes and CRC-32 checksums of stored files, verified when the files are read."""

from __future__ import annotations

import contextlib
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
    """A file whose content differs from what was written."""


@dataclass
class Checksum:
    """Size and CRC-32 of a sequence of bytes, computed incrementally."""

    size: int = 0
    crc32: int = 0

    @classmethod
    def of(cls, piece) -> Checksum:
        """The checksum of bytes in memory."""
        found = cls()
        found.add(piece)
        return found

    @classmethod
    def of_file(cls, path: str | os.PathLike) -> Checksum:
        """
        The checksum of a file.

        Raises:
            OSError: if the file can't be read.
        """
        found = cls()
        with open(path, "rb") as file:
            while piece := file.read(_PIECE):
                found.add(piece)
        return found

    def add(self, piece) -> None:
        """
        Update with more bytes.

        Args:
            piece: bytes, or a buffer of bytes.
        """
        self.size += len(piece)
        self.crc32 = zlib.crc32(piece, self.crc32)


class CheckedWriter:
    """
    A new file, with the checksum of the bytes written so far.

    Args:
        path: path of the file; an existing file is overwritten.
    """

    def __init__(self, path: str | os.PathLike):
        self._file = open(path, "wb", buffering=_PIECE)  # noqa: SIM115
        self.checksum = Checksum()

    def write(self, piece) -> None:
        """Write bytes; they are counted after the write has succeeded."""
        self._file.write(piece)
        self.checksum.add(piece)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def abandon(self) -> None:
        """Close a file that is not needed; it doesn't matter whether all of it can be written."""
        with contextlib.suppress(OSError):
            self._file.close()


class CheckedFolder:
    """
    New files in a folder, whose checksums are stored when they are closed; :func:`check_folder` verifies them.

    Args:
        folder: path of the folder. It is created if needed; files of an earlier writer are overwritten.
        names: names of the files.

    Attributes:
        folder: the folder.
        files: the files by name.
    """

    def __init__(self, folder: str | os.PathLike, names: Iterable[str]):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / MANIFEST).unlink(missing_ok=True)
        self.files = {name: CheckedWriter(self.folder / name) for name in names}

    def close(self) -> None:
        """Close the files and store their checksums."""
        for file in self.files.values():
            file.close()
        write_manifest(self.folder, {name: file.checksum for name, file in self.files.items()})

    def abandon(self) -> None:
        """Close files that are not needed."""
        for file in self.files.values():
            file.abandon()


def write_manifest(folder: str | os.PathLike, checksums: dict[str, Checksum]) -> None:
    """
    Write the checksums of the files in a folder to :data:`MANIFEST` in that folder.

    Args:
        folder: folder of the complete files.
        checksums: checksums by file name.
    """
    write_json(Path(folder, MANIFEST), {name: [found.size, found.crc32] for name, found in checksums.items()})


def read_manifest(folder: str | os.PathLike) -> dict[str, Checksum]:
    """
    Read the checksums that :func:`write_manifest` wrote.

    Raises:
        DamagedFileError: if the manifest is missing or damaged.
    """
    path = Path(folder, MANIFEST)
    try:
        content = json.loads(path.read_bytes())
        return {name: Checksum(int(size), int(crc32)) for name, (size, crc32) in content.items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedFileError(f"{path} is missing or damaged ({type(error).__name__}: {error})") from error


def check_folder(folder: str | os.PathLike, names: Iterable[str]) -> dict[str, Checksum]:
    """
    Verify the size and checksum of each file against the manifest.

    Args:
        folder: folder of the files and their manifest.
        names: names of the files.

    Returns:
        the checksums by name.

    Raises:
        DamagedFileError: if a file or the manifest is missing, truncated or altered.
    """
    stated = read_manifest(folder)
    if set(stated) != set(names):
        raise DamagedFileError(f"{Path(folder, MANIFEST)} lists {', '.join(stated) or 'nothing'}")
    for name, expected in stated.items():
        check_file(Path(folder, name), expected)
    return stated


def check_file(path: str | os.PathLike, expected: Checksum) -> None:
    """
    Verify one file. The size is compared first, which is fast.

    Raises:
        DamagedFileError: if the file is missing, truncated or altered.
    """
    try:
        size = os.path.getsize(path)
        if size != expected.size:
            raise DamagedFileError(f"{path} has {size:,} bytes instead of {expected.size:,}")
        if Checksum.of_file(path) != expected:
            raise DamagedFileError(f"{path} has been altered: its checksum is wrong")
    except OSError as error:
        raise DamagedFileError(f"{path} can't be read: {error.strerror or error}") from error
