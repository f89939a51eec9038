"""Images: are they there, can they be read?"""

from __future__ import annotations

import os
from collections.abc import Sequence

from tqdm import tqdm

from ...utils.findings import Findings
from ...utils.text import one_line
from ..image_files import ImageError, WrongSizeImageError, read_image
from .safe_paths import other_spellings


def missing_images(paths: Sequence[str]) -> list[int]:
    """
    Which of many files are not there.

    Args:
        paths: of files.

    Returns:
        positions in ``paths``, ascending.
    """
    files = _Files()
    return [position for position, path in enumerate(paths) if path not in files]


def find_images(root: str, paths: Sequence[str]) -> list[str | None]:
    """
    The files of images whose paths may be spelled another way than the files' names: with backslashes, percent-encoded.

    Args:
        root: the folder of images.
        paths: relative to it.

    Returns:
        of each the path of a file, as it is where that is one; None where there is none.
    """
    files = _Files()

    def find(path: str) -> str | None:
        if os.path.join(root, path) in files:
            return path
        return next((spelling for spelling in other_spellings(path) if os.path.join(root, spelling) in files), None)

    return [find(path) for path in paths]


def report_respelled(findings: Findings, paths: Sequence[str], found: Sequence[str | None]) -> None:
    """Add the images that :func:`find_images` has found under another spelling."""
    respelled = [f"{path!r:.100} is {file!r:.100}" for path, file in zip(paths, found) if file not in (path, None)]
    if respelled:
        findings.add_all("path_respelled", respelled)


class _Files:
    """
    Which files there are. A folder is listed once, as asking for 120,000 files one by one takes minutes on a network's
    disk.
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
