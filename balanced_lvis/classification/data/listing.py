"""Which image files a folder has, at any depth."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import NoReturn

from ...data.images.decoding import has_image_suffix
from ...utils.errors import InputError


@dataclass(frozen=True)
class Listing:
    """
    Attributes:
        images: paths of the images, sorted by folder, then by name.
        repeated: paths that lead to a file or folder that another path has given, or to a parent folder; left out.
        others: paths of files without the suffix of an image; left out.
    """

    images: list[str]
    repeated: list[str]
    others: list[str]


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden: ``.ipynb_checkpoints``, or ``._x.png``, as macOS writes it next to x.png."""
    return name.startswith(".")


def folders_in(folder: str) -> tuple[str, ...]:
    """
    Sorted names of the folders in a folder, without hidden ones.

    Raises:
        InputError: if the folder can't be read.
    """
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        _refuse(error)
    return tuple(name for name in names if not is_hidden(name) and os.path.isdir(os.path.join(folder, name)))


def list_images(folder: str) -> Listing:
    """
    List the images in a folder and the folders in it. Links are followed, hidden files and folders are left out.

    Args:
        folder: path of the folder.

    Raises:
        InputError: if a folder can't be read.
    """
    found = Listing([], [], [])
    read: set[str] = set()  # without links
    for path, names in sorted(_folders(folder, found.repeated)):
        real = os.path.realpath(path)
        for name in names:
            file = os.path.join(path, name)
            target = os.path.realpath(file) if os.path.islink(file) else os.path.join(real, name)
            if not has_image_suffix(name):
                found.others.append(file)
            elif target in read:
                found.repeated.append(file)
            else:
                read.add(target)
                found.images.append(file)
    return found


def _folders(folder: str, repeated: list[str]) -> list[tuple[str, list[str]]]:
    """Paths of a folder and those in it, each with the names of its files; adds paths to ``repeated``."""
    top = os.path.realpath(folder)
    visited, folders = {top}, []
    for path, inner, files in os.walk(folder, onerror=_refuse, followlinks=True):
        folders.append((path, sorted(name for name in files if not is_hidden(name))))
        names, inner[:] = sorted(name for name in inner if not is_hidden(name)), []
        for name in names:
            real = os.path.realpath(os.path.join(path, name))
            # A parent folder has the images of other classes, too.
            if real in visited or top.startswith(os.path.join(real, "")):
                repeated.append(os.path.join(path, name))
            else:
                visited.add(real)
                inner.append(name)
    return folders


def _refuse(error: OSError) -> NoReturn:
    raise InputError(f"Folder {error.filename!r} can't be read ({error.strerror}); correct its permissions.") from error
