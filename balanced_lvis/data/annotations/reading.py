"""Opening of annotation files, and why one is not valid JSON."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import IO

from tqdm import tqdm

from ...utils.errors import InputError
from ...utils.io import open_regular
from ...utils.text import one_line

_BEGINNINGS = {
    b"PK\x03\x04": "is a zip archive",
    b"\x1f\x8b": "is gzipped",
    b"<": "is a web page",
    b"version https://git-lfs": "is a Git LFS pointer",
    b"[": "is a list, as in a file of results",
}


@contextlib.contextmanager
def open_annotations(
    json_file: str | os.PathLike, title: str = "Reading", progress: bool = False, refusal: str | None = None
) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """
    Open an annotation file.

    Args:
        json_file: path of the annotation file.
        title: title of the progress bar, followed by the file's name.
        progress: show a progress bar on a terminal.
        refusal: predicate of the message if the file is not valid JSON, such as "can't be counted"; None: the parser's
            errors are raised as they are.

    Yields:
        the file; and the same file for reading, with the progress bar.

    Raises:
        InputError: if the file can't be opened; or if it is not valid JSON, and ``refusal`` is given.
    """
    try:
        raw = open_regular(json_file)
    except OSError as error:
        raise InputError(f"Annotations {json_file} can't be read: {error.strerror}.") from error
    title, size = f"{title} {one_line(os.path.basename(json_file))}", os.fstat(raw.fileno()).st_size
    hidden = None if progress else True
    with raw, tqdm.wrapattr(raw, "read", total=size, desc=title, disable=hidden) as counted:
        try:
            yield raw, counted
        except (ValueError, RecursionError) as error:
            if refusal is None or isinstance(error, InputError):
                raise
            raise InputError(f"Annotations {json_file} {refusal}: {why_not_json(raw, error)}.") from error


def why_not_json(source: IO[bytes], error: Exception) -> str:
    """Why a file is not valid JSON, by its first bytes if they identify another format."""
    source.seek(0)
    beginning = source.read(64).lstrip()
    if not beginning:
        return "it is empty"
    kind = next((words for mark, words in _BEGINNINGS.items() if beginning.startswith(mark)), None)
    reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
    return f"it {kind}" if kind else reason
