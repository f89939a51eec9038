"""Paths of images: how records specify them, how they are spelled, and which files exist."""

from __future__ import annotations

import enum
import os
import re
import unicodedata
import urllib.parse
from collections.abc import Sequence

from ...utils.errors import InputError
from ..annotations.annotation_reader import Image, RecordError

COCO, LVIS = "coco", "lvis"
_TRIED = 20  # images that choose_layout looks for


def image_path(image: Image, layout: str | None = None) -> str:
    """
    The path of an image, relative to the folder of images.

    Args:
        image: a record of an annotation file.
        layout: "coco": ``file_name``, as in Detectron2's loader of COCO files. "lvis": the last two parts of
            ``coco_url``, as in its loader of LVIS files, or else ``file_name``. None: ``file_name``, or else the last
            two parts of ``coco_url``.

    Raises:
        RecordError: if the record has no path.
    """
    if layout is None:
        layout = LVIS if image.coco_url and not image.file_name else COCO
    elif layout == LVIS and not image.coco_url and image.file_name:
        layout = COCO
    name = "file_name" if layout == COCO else "coco_url"
    path = getattr(image, name)
    if not path:
        raise RecordError(f"has no {name!r}", name, missing=True)
    if layout == COCO:
        return path
    parts = path.split("/")[-2:]
    if len(parts) < 2:
        raise RecordError(f"coco_url {path!r:.100} has no folder", name, missing=True)
    return "/".join(parts)


def path_problem(path: str) -> str:
    """Why a path leads out of the folder that it is relative to, on any system; "" if it doesn't."""
    if "\0" in path:
        return "contains a zero byte"
    if path.startswith(("/", "\\", "~")) or re.match("[A-Za-z]:", path):
        return "is absolute"
    if ".." in re.split(r"[/\\]", path):
        return "goes up with '..'"
    return ""


def other_spellings(path: str) -> list[str]:
    """
    Other spellings of a path for which no file exists: with / for \\, percent-decoded, in another Unicode form.

    Args:
        path: path relative to the folder of images.

    Returns:
        paths below that folder, the most likely first; none for an ordinary name.
    """
    found = [path]
    if "%" in path:
        found.append(urllib.parse.unquote(path))
    found += [spelling.replace("\\", "/") for spelling in found if "\\" in spelling]
    for form in ("NFC", "NFD"):  # macOS writes names decomposed
        found += [unicodedata.normalize(form, spelling) for spelling in found if not spelling.isascii()]
    return [spelling for spelling in dict.fromkeys(found) if spelling != path and not path_problem(spelling)]


def missing_images(paths: Sequence[str]) -> list[int]:
    """
    Determine which files don't exist.

    Args:
        paths: paths of the files.

    Returns:
        ascending positions of missing files in ``paths``.
    """
    files = _Files()
    return [position for position, path in enumerate(paths) if path not in files]


def find_images(root: str, paths: Sequence[str]) -> list[str | None]:
    """
    Find the files of images, whose paths may be spelled differently: with backslashes, percent-encoded.

    Args:
        root: the folder of images.
        paths: paths relative to it.

    Returns:
        for each path the path of an existing file, unchanged if it exists as spelled; None if there is none.
    """
    files = _Files()

    def find(path: str) -> str | None:
        if os.path.join(root, path) in files:
            return path
        return next((spelling for spelling in other_spellings(path) if os.path.join(root, spelling) in files), None)

    return [find(path) for path in paths]


class _Files:
    """
    The set of existing files. Each folder is listed once, because 120,000 single lookups take minutes on a network
    file system.
    """

    def __init__(self):
        self._folders: dict[str, set[str]] = {}

    def __contains__(self, path: str) -> bool:
        folder, name = os.path.split(path)
        if folder not in self._folders:
            self._folders[folder] = _files_of(folder)
        return name in self._folders[folder]


def _files_of(folder: str) -> set[str]:
    try:
        with os.scandir(folder or ".") as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except (OSError, ValueError):  # missing, or not a folder; a zero byte in its name
        return set()


class Layout(enum.Enum):
    """The part of an image's record that is its path."""

    FILE_NAME = "file_name"  # as in COCO
    URL_FOLDER = "the last two parts of coco_url"  # as in LVIS
    URL_NAME = "the last part of coco_url"  # images in a single folder

    def path(self, image: Image) -> str:
        """
        Raises:
            InputError: if the record lacks that field.
        """
        path = image.file_name if self is Layout.FILE_NAME else image.coco_url
        if path is None:
            raise InputError(
                f"Image {image.id} has no {self.value.rpartition(' ')[2]}, by which other images are found; add it."
            )
        parts = path.split("/")
        return {Layout.FILE_NAME: path, Layout.URL_FOLDER: "/".join(parts[-2:]), Layout.URL_NAME: parts[-1]}[self]


def choose_layout(image_root: str, images: Sequence[Image]) -> tuple[Layout, bool]:
    """
    Choose the layout by which images exist, or the usual one for the records if no image exists.

    Args:
        image_root: the folder of images.
        images: records with file_name, coco_url or both.

    Returns:
        the layout, and whether an image was found with it.

    Raises:
        InputError: if the first record has neither.
    """
    first = images[0]
    usable = [Layout.FILE_NAME] if first.file_name else []
    usable += [Layout.URL_FOLDER, Layout.URL_NAME] if first.coco_url else []
    if not usable:
        raise InputError(f"Image {first.id} has neither file_name nor coco_url; add one to the record of each image.")
    step = max(1, len(images) // _TRIED)
    for layout in usable:
        try:
            if any(find_images(image_root, [layout.path(image) for image in images[::step]])):
                return layout, True
        except InputError:  # not all records have the field
            continue
    return usable[0], False
