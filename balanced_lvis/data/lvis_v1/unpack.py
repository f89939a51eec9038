"""Atomic extraction or copying of one file."""

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
from ...utils.storage import check_disk_space
from ...utils.text import first_of, one_line
from .lvis_files import OTHER_ROOT

_CHUNK = 1 << 20


def unpack(archive: str | os.PathLike, name: str, target: str | os.PathLike) -> None:
    """
    Extract one file from an archive. The paths in the archive don't affect the target.

    Args:
        archive: path of a zip file.
        name: name of the file in it, in any folder.
        target: path of the extracted file.

    Raises:
        InputError: if the archive is damaged, doesn't contain the file, or disk space is insufficient.
    """
    try:
        with open_regular(archive) as file, zipfile.ZipFile(file) as opened:
            member = _member(opened, archive, name)
            check_member(member)
            check_disk_space(Path(target).parent, member.file_size, name, OTHER_ROOT)
            with opened.open(member) as source:
                _copy(source, target, member.file_size)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise InputError(f"{archive} can't be unpacked: {error}. Delete it, and download it again.") from error
    except OSError as error:
        raise InputError(f"{archive} can't be unpacked into {target}: {error.strerror or error}.") from error


def copy(source: str | os.PathLike, target: str | os.PathLike) -> None:
    """
    Copy a file, with a progress bar.

    Raises:
        InputError: if it can't be read or written, or disk space is insufficient.
    """
    try:
        size = os.path.getsize(source)
        check_disk_space(Path(target).parent, size, Path(source).name, OTHER_ROOT)
        with open_regular(source) as file:
            _copy(file, target, size)
    except OSError as error:
        raise InputError(f"{source} can't be copied to {target}: {error.strerror or error}.") from error


def _member(opened: zipfile.ZipFile, archive, name: str) -> zipfile.ZipInfo:
    for member in opened.infolist():
        folder, base = posixpath.split(member.filename)
        if base == name and not folder.startswith("__MACOSX"):  # metadata of macOS
            return member
    held = first_of(opened.namelist(), 5) or "nothing"
    raise InputError(f"{archive} doesn't contain {name}, but {held}; use the archive that LVIS publishes.")


def _copy(source: IO[bytes], target: str | os.PathLike, size: int) -> None:
    title = f"Writing {one_line(Path(target).name)}"
    bar = tqdm(desc=title, total=size, unit="B", unit_scale=True, unit_divisor=1024, disable=None)
    with bar, replacing(target, "wb") as file:
        while data := source.read(_CHUNK):
            file.write(data)
            bar.update(len(data))
