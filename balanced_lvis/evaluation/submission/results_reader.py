"""Streaming reader of results files, from JSON or a zip archive with one JSON file."""

from __future__ import annotations

import contextlib
import lzma
import os
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO

from tqdm import tqdm

from ...data.annotations.json_stream import stream_list
from ...utils.archives import check_member
from ...utils.errors import InputError
from ...utils.io import open_regular
from ...utils.text import one_line

# Exceptions of reading a broken file; the parser raises ValueError.
BROKEN = (
    ValueError, RecursionError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError,
    RuntimeError, OSError,
)  # fmt: skip
# Number of detections, and bytes of the file, in memory at a time.
_BATCH, _BYTES = 5_000, 1 << 22
# Maximum length of an element. A mask of a 4,096 x 4,096 image takes less than a tenth of it, unless it is noise.
_LONGEST = 1 << 26


def batches_of(path: str | os.PathLike, progress: bool = True) -> Iterator[list]:
    """
    Read the elements of a results file in batches.

    Args:
        path: path of the file; its first bytes show whether it is a zip archive.
        progress: show a progress bar on a terminal.

    Yields:
        lists of elements, arbitrary JSON values, in order.

    Raises:
        InputError: if the file does not exist or can't be opened.
        ValueError, or another of :data:`BROKEN`: if the file is not a complete list.
    """
    try:
        raw = open_regular(path)
    except OSError as error:
        raise InputError(f"Results {os.fspath(path)} can't be read: {error.strerror}.") from error
    hidden = None if progress else True
    size = os.fstat(raw.fileno()).st_size
    title = f"Reading {one_line(os.path.basename(path))}"
    with raw, tqdm(total=size, desc=title, unit="B", unit_scale=True, disable=hidden) as bar, _content(raw) as file:
        batch, begin = [], 0
        try:
            for element in stream_list(file, _LONGEST):
                batch.append(element)
                if len(batch) == _BATCH or file.tell() - begin > _BYTES:
                    yield batch
                    batch, begin = [], file.tell()
                    bar.update(raw.tell() - bar.n)
        except BROKEN:
            yield batch  # elements before the error
            raise
        yield batch


def why_unreadable(error: Exception) -> str:
    """Description of one of :data:`BROKEN`."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    text = str(error) or type(error).__name__
    return text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}"


@contextlib.contextmanager
def _content(raw: IO[bytes]) -> Iterator[IO[bytes]]:
    mark = raw.read(4)
    raw.seek(0)
    if mark[:2] != b"PK":
        yield raw
        return
    with zipfile.ZipFile(raw) as archive:
        names = [name for name in archive.namelist() if name.endswith(".json") and not name.startswith("__MACOSX/")]
        if len(names) != 1:
            raise ValueError(f"it is a zip archive with {len(names)} .json files; it must contain one")
        check_member(archive.getinfo(names[0]))
        with archive.open(names[0]) as file:
            yield file
