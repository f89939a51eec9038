"""Images: are they there, can they be read?"""

from __future__ import annotations

import os
from collections.abc import Sequence

from tqdm import tqdm

from ...text import one_line
from ..images import ImageError, WrongSizeImageError, read_image


def missing_images(paths: Sequence[str]) -> list[int]:
    """
    Which of many files are not there. A folder is listed once, as asking for 120,000 files one by one takes minutes
    on a network's disk.

    Args:
        paths: of files.

    Returns:
        positions in ``paths``, ascending.
    """
    folders: dict[str, set[str]] = {}
    missing = []
    for position, path in enumerate(paths):
        folder, name = os.path.split(path)
        if folder not in folders:
            folders[folder] = _files_of(folder)
        if name not in folders[folder]:
            missing.append(position)
    return missing


def _files_of(folder: str) -> set[str]:
    try:
        with os.scandir(folder or ".") as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except (OSError, ValueError):  # not there, or no folder; a zero byte in its name
        return set()


def image_problem(path: str, size: tuple[int, int]) -> tuple[str, str] | None:
    """
    Read an image as training does.

    Args:
        path: of the file.
        size: width, height as annotated, of the image as it is shown, turned as its EXIF says, or as it is stored:
            training takes either.

    Returns:
        a kind of :data:`balanced_lvis.data.validation.KINDS` and the reason in words; None if all is well.
    """
    try:
        read_image(path, "RGB", size)
    except ImageError as error:
        kind = "image_size_differs" if isinstance(error, WrongSizeImageError) else "image_unreadable"
        return kind, str(error).removeprefix(f"Image {one_line(path)} ").removesuffix(".")[:200]
    return None


def read_all(paths: Sequence[str], sizes: Sequence[tuple[int, int]], progress: bool):
    """As :func:`image_problem` of each; yields position, kind and reason of those that have one."""
    for position in tqdm(range(len(paths)), "Reading images", unit="image", disable=None if progress else True):
        found = image_problem(paths[position], sizes[position])
        if found:
            yield (position, *found)
