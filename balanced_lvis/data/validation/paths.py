"""The path of an image, which must stay below the folder that its data set's images are in."""

from __future__ import annotations

import re

COCO, LVIS = "coco", "lvis"


def image_path(image: dict, layout: str | None = None) -> str:
    """
    Where an image is, relative to the folder of images.

    Args:
        image: a record of an annotation file.
        layout: "coco" reads ``file_name``, "lvis" the last two parts of ``coco_url``, as Detectron2's loaders of that
            format do, and ``file_name`` where there is none; None takes what is there, ``file_name`` first.

    Raises:
        KeyError: if the record has no such entry.
        TypeError: if that is no path.
    """
    if layout is None:
        layout = COCO if "file_name" in image else LVIS
    elif layout == LVIS and "coco_url" not in image and "file_name" in image:
        layout = COCO
    path = image["file_name" if layout == COCO else "coco_url"]
    if not isinstance(path, str) or not path:
        raise TypeError(f"{path!r:.100} is no path")
    if layout == COCO:
        return path
    parts = path.split("/")[-2:]
    if len(parts) < 2:
        raise TypeError(f"coco_url {path!r:.100} has no folder")
    return "/".join(parts)


def path_problem(path: str) -> str:
    """Why a path doesn't stay below the folder that it is relative to, on any system; "" where it does."""
    if "\0" in path:
        return "holds a zero byte"
    if path.startswith(("/", "\\", "~")) or re.match("[A-Za-z]:", path):
        return "is absolute"
    if ".." in re.split(r"[/\\]", path):
        return "goes up with '..'"
    return ""
