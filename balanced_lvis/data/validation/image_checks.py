"""Checks of image files: spelling of their paths, content and size."""

from __future__ import annotations

from collections.abc import Sequence

from tqdm import tqdm

from ...utils.findings import Findings
from ...utils.text import one_line
from ..images.decoding import ImageError, WrongSizeImageError
from ..images.image_files import read_image


def report_respelled(findings: Findings, paths: Sequence[str], found: Sequence[str | None]) -> None:
    """Report the images that :func:`..images.image_paths.find_images` has found under another spelling."""
    respelled = [f"{path!r:.100} is {file!r:.100}" for path, file in zip(paths, found) if file not in (path, None)]
    if respelled:
        findings.add_all("path_respelled", respelled)


def image_problem(path: str, size: tuple[int, int]) -> tuple[str, str] | None:
    """
    Read an image as training does.

    Args:
        path: path of the file.
        size: annotated width and height, with or without the rotation by EXIF; training accepts both.

    Returns:
        a key of :data:`balanced_lvis.data.validation.KINDS` and the reason; None if the image is fine.
    """
    try:
        read_image(path, "RGB", size)
    except ImageError as error:
        kind = "image_size_differs" if isinstance(error, WrongSizeImageError) else "image_unreadable"
        return kind, str(error).removeprefix(f"Image {one_line(path)} ").removesuffix(".")[:200]
    return None


def read_all(paths: Sequence[str], sizes: Sequence[tuple[int, int]], progress: bool):
    """Call :func:`image_problem` for each image; yields position, kind and reason of each problem."""
    for position in tqdm(range(len(paths)), "Reading images", unit="image", disable=None if progress else True):
        found = image_problem(paths[position], sizes[position])
        if found:
            yield (position, *found)
