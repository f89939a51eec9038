"""The images of the dataset, for crops."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence

import numpy as np

from ..data.annotations.annotation_reader import RecordError, read_image
from ..data.images.decoding import ImageError
from ..data.images.image_files import read_image as read_pixels
from ..data.images.image_paths import choose_layout, find_images
from ..evaluation.lvis_api import LVIS
from ..utils.errors import InputError
from ..utils.text import first_of

_CACHED = 8  # images; views of one image mostly follow each other
SHOWN = 3  # names in a notice


class Photos:
    """
    The images of an annotation file.

    Args:
        lvis_gt: the annotation file.
        image_ids: (I,) ids, in the order in which images are numbered.
        image_root: folder of the images; None without one.

    Attributes:
        problem: why images are not shown, as a sentence; "" if all exist.
    """

    def __init__(self, lvis_gt: LVIS, image_ids: Sequence[int], image_root: str | os.PathLike | None):
        self._records = [lvis_gt.imgs[image_id] for image_id in image_ids]
        self._root = None if image_root is None else os.fspath(image_root)
        self._paths: list[str | None] = [None] * len(self._records)
        self._unreadable: dict[int, str] = {}  # the reason
        self.problem = self._find()
        self._read = functools.lru_cache(_CACHED)(self._read_uncached)

    def _find(self) -> str:
        if self._root is None:
            return "The folder of the images is not known, so that no images are shown; pass it as --image-root."
        try:
            images = [read_image(record) for record in self._records]
            layout, _ = choose_layout(self._root, images)
            self._paths = find_images(self._root, [layout.path(image) for image in images])
        except (RecordError, InputError) as error:
            return f"The paths of the images can't be determined ({error}), so that no images are shown."
        missing = [image.id for image, path in zip(images, self._paths) if path is None]
        if not missing:
            return ""
        verb, these = ("does", "it is not shown") if len(missing) == 1 else ("do", "these are not shown")
        shown = "no images are shown" if len(missing) == len(images) else these
        return (
            f"{len(missing):,} of {len(images):,} images {verb} not exist in {self._root}, so that {shown} (id "
            f"{first_of(missing, SHOWN)}); pass the folder of all as --image-root."
        )

    @property
    def any(self) -> bool:
        """Whether at least one image exists."""
        return any(path is not None for path in self._paths)

    @property
    def unreadable(self) -> str:
        """Which images could not be decoded so far, as a sentence; "" if all could."""
        if not self._unreadable:
            return ""
        number = len(self._unreadable)
        text = "1 image that exists is" if number == 1 else f"{number:,} images that exist are"
        names = first_of((self.name(image) for image in self._unreadable), SHOWN)
        return f"{text} not shown ({names}): {next(iter(self._unreadable.values()))}"

    def exists(self, image: int) -> bool:
        """Whether the file of an image exists, by its number."""
        return self._paths[image] is not None and image not in self._unreadable

    def name(self, image: int) -> str:
        """File name of an image, or its id if there is none."""
        path = self._paths[image]
        return os.path.basename(path) if path else f"image {self._records[image]['id']}"

    def size(self, image: int) -> tuple[int, int]:
        """Annotated height and width in pixels."""
        return self._records[image]["height"], self._records[image]["width"]

    def pixels(self, image: int) -> np.ndarray | None:
        """(H, W, 3) uint8 RGB; None if the image can't be read, which :attr:`unreadable` says."""
        return self._read(image) if self.exists(image) else None

    def _read_uncached(self, image: int) -> np.ndarray | None:
        height, width = self.size(image)
        try:
            return read_pixels(os.path.join(self._root or "", self._paths[image] or ""), "RGB", (width, height))
        except ImageError as error:
            self._unreadable[image] = str(error)
            return None
