"""One file out of a zip archive or a folder, whole or not at all."""

from __future__ import annotations

import os
import posixpath
import zipfile
import zlib
from pathlib import Path
from typing import IO

from tqdm import tqdm

from ...utils.archives import check_member
from ...utils.errors import InputError
from ...utils.io import open_regular, replacing
from ...utils.text import first_of, one_line
from .disk_space import check_room

_CHUNK = 1 << 20


def unpack(archive: str | os.PathLike, name: str, target: str | os.PathLike) -> None:
    """
    Take one file out of an archive. Where it goes is not for the archive to say.

    Args:
        archive: a zip file.
        name: of the file in it, in whatever folder.
        target: the path it gets.

    Raises:
        InputError: if the archive is damaged or doesn't hold such a file, or there is no room.
    """
    try:
        with open_regular(archive) as file, zipfile.ZipFile(file) as opened:
            member = _member(opened, archive, name)
            check_member(member)
            check_room(Path(target).parent, member.file_size, name)
            with opened.open(member) as source:
                _copy(source, target, member.file_size)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise InputError(f"{archive} can't be unpacked: {error}. Delete it, and get it again.") from error
    except OSError as error:
        raise InputError(f"{archive} can't be unpacked into {target}: {error.strerror or error}.") from error


def copy(source: str | os.PathLike, target: str | os.PathLike) -> None:
    """
    Copy a file, with a progress bar.

    Raises:
        InputError: if it can't be read or written, or there is no room.
    """
    try:
        size = os.path.getsize(source)
        check_room(Path(target).parent, size, Path(source).name)
        with open_regular(source) as file:
            _copy(file, target, size)
    except OSError as error:
        raise InputError(f"{source} can't be copied to {target}: {error.strerror or error}.") from error


def _member(opened: zipfile.ZipFile, archive, name: str) -> zipfile.ZipInfo:
    for member in opened.infolist():
        folder, base = posixpath.split(member.filename)
        if base == name and not folder.startswith("__MACOSX"):  # which holds what only that system has a use for
            return member
    held = first_of(opened.namelist(), 5) or "nothing"
    raise InputError(f"{archive} doesn't hold {name}, but {held}; use the archive that LVIS publishes.")


def _copy(source: IO[bytes], target: str | os.PathLike, size: int) -> None:
    title = f"Writing {one_line(Path(target).name)}"
    bar = tqdm(desc=title, total=size, unit="B", unit_scale=True, unit_divisor=1024, disable=None)
    with bar, replacing(target, "wb") as file:
        while data := source.read(_CHUNK):
            file.write(data)
            bar.update(len(data))
