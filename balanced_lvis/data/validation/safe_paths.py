"""The path of an image, which must stay below the folder that its dataset's images are in."""

from __future__ import annotations

import re
import unicodedata
import urllib.parse

from ..annotation_reader import Image, RecordError

COCO, LVIS = "coco", "lvis"


def image_path(image: Image, layout: str | None = None) -> str:
    """
    Where an image is, relative to the folder of images.

    Args:
        image: a record of an annotation file.
        layout: "coco" reads ``file_name``, "lvis" the last two parts of ``coco_url``, as Detectron2's loaders of that
            format do, and ``file_name`` where there is none; None takes what is there, ``file_name`` first.

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
    """Why a path doesn't stay below the folder that it is relative to, on any system; "" where it does."""
    if "\0" in path:
        return "holds a zero byte"
    if path.startswith(("/", "\\", "~")) or re.match("[A-Za-z]:", path):
        return "is absolute"
    if ".." in re.split(r"[/\\]", path):
        return "goes up with '..'"
    return ""


def other_spellings(path: str) -> list[str]:
    """
    What a path may stand for where no file has its name: with / for \\, percent-decoded, in another Unicode form.

    Args:
        path: relative to the folder of images.

    Returns:
        paths that stay below that folder, the likeliest first; none for an ordinary name.
    """
    found = [path]
    if "%" in path:
        found.append(urllib.parse.unquote(path))
    found += [spelling.replace("\\", "/") for spelling in found if "\\" in spelling]
    for form in ("NFC", "NFD"):  # macOS writes names decomposed
        found += [unicodedata.normalize(form, spelling) for spelling in found if not spelling.isascii()]
    return [spelling for spelling in dict.fromkeys(found) if spelling != path and not path_problem(spelling)]
