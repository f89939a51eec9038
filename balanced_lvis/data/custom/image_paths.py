"""Where a data set's images are below their folder: files say it in several ways."""

from __future__ import annotations

import enum
from collections.abc import Sequence

from ...utils.errors import InputError
from ..annotation_reader import Image
from ..validation.image_checks import find_images

_TRIED = 20  # images that are looked for


class Layout(enum.Enum):
    """What of an image's record leads to its file."""

    FILE_NAME = "file_name"  # COCO's way
    URL_FOLDER = "the last two parts of coco_url"  # LVIS's way
    URL_NAME = "the last part of coco_url"  # of a single folder

    def path(self, image: Image) -> str:
        """
        Raises:
            InputError: if the record doesn't have what it takes.
        """
        path = image.file_name if self is Layout.FILE_NAME else image.coco_url
        if path is None:
            raise InputError(
                f"Image {image.id} has no {self.value.rpartition(' ')[2]}, by which others are found; add it."
            )
        parts = path.split("/")
        return {Layout.FILE_NAME: path, Layout.URL_FOLDER: "/".join(parts[-2:]), Layout.URL_NAME: parts[-1]}[self]


def choose_layout(image_root: str, images: Sequence[Image]) -> tuple[Layout, bool]:
    """
    The way in which images are there; where none is, the usual one of what the records have.

    Args:
        image_root: the folder of images.
        images: records with file_name, coco_url or both.

    Returns:
        it, and whether an image was there that shows it.
    """
    first = images[0]
    usable = [Layout.FILE_NAME] if first.file_name else []
    usable += [Layout.URL_FOLDER, Layout.URL_NAME] if first.coco_url else []
    step = max(1, len(images) // _TRIED)
    for layout in usable:
        try:
            if any(find_images(image_root, [layout.path(image) for image in images[::step]])):
                return layout, True
        except InputError:  # not all have it
            continue
    return usable[0], False
