"""Paths of the images to predict and of the drawn images."""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Iterable

from ..data.images.decoding import has_image_suffix
from ..utils.errors import InputError
from ..utils.text import first_of, one_line, safe_file_name

logger = logging.getLogger(__name__)

_SHOWN = 5
_DRAWN = (".jpg", ".jpeg", ".png")  # other formats are drawn as PNG


def find_images(inputs: Iterable[str | os.PathLike]) -> list[str]:
    """
    Args:
        inputs: files, patterns like ``a/*.jpg``, and folders. From a folder, files with the suffix of an image are
            taken; a warning lists the others.

    Returns:
        distinct paths in the order of the inputs, sorted within a folder or pattern.

    Raises:
        InputError: if an input has no image.
    """
    paths: dict[str, None] = {}
    for given in (os.fspath(path) for path in inputs):
        if os.path.isdir(given):
            found, words = _in_folder(given), "has no image files"
        elif os.path.exists(given):
            found, words = [given], ""
        else:
            found, words = sorted(filter(os.path.isfile, glob.glob(given, recursive=True))), "doesn't exist"
        if not found:
            raise InputError(f"--input {given!r} {words}; name image files, folders of images or quoted patterns.")
        paths.update(dict.fromkeys(found))
    return list(paths)


def _in_folder(folder: str) -> list[str]:
    taken: list[str] = []
    other: list[str] = []
    folders: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                (folders if entry.is_dir() else taken if has_image_suffix(entry.name) else other).append(entry.name)
    except OSError as error:
        raise InputError(f"--input {folder!r} can't be listed: {error.strerror}.") from error
    for names, what in ((other, "file(s) without an image suffix"), (folders, "folder(s)")):
        if names:
            shown = first_of(sorted(names), _SHOWN)
            logger.warning("%s: %d %s skipped: %s", one_line(folder), len(names), what, shown)
    return [os.path.join(folder, name) for name in sorted(taken)]


def output_paths(paths: list[str], folder: str | os.PathLike) -> list[str]:
    """
    The files to draw images to: the tree below their deepest common folder is repeated below ``folder``, with names
    that every file system accepts.

    Raises:
        InputError: if an output would overwrite an input, or is an existing folder.
    """
    above = os.path.dirname(os.path.abspath(paths[0]))
    if len(paths) > 1:
        above = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
    names = {os.path.realpath(path) for path in paths}
    outputs = _distinct([os.path.join(folder, _drawn_name(os.path.relpath(path, above))) for path in paths])
    for path in outputs:
        if os.path.realpath(path) in names:
            raise InputError(f"--output {os.fspath(folder)!r} would overwrite the input {path!r}; name another folder.")
        if os.path.isdir(path):
            raise InputError(
                f"--output {os.fspath(folder)!r} has a folder at {path!r}, the path of an image; name another folder."
            )
    return outputs


def _drawn_name(path: str) -> str:
    name = os.path.join(*map(safe_file_name, path.split(os.sep)))
    return name if name.lower().endswith(_DRAWN) else f"{name}.png"


def _distinct(paths: list[str]) -> list[str]:
    """Paths with ".png" appended to duplicates: a.bmp and a.bmp.png would both be drawn as a.bmp.png."""
    taken: dict[str, None] = {}
    for path in paths:
        while path in taken:
            path += ".png"
        taken[path] = None
    return list(taken)
