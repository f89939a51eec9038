"""The images of the dataset, for crops."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Sequence

import numpy as np

from ..data.annotation_reader import RecordError, read_image
from ..data.image_files import ImageError
from ..data.image_files import read_image as read_pixels
from ..data.image_paths import choose_layout, find_images
from ..evaluation.lvis_api import LVIS
from ..utils.errors import InputError
from ..utils.text import first_of

logger = logging.getLogger(__name__)

_CACHED = 8  # images; views of one image mostly follow each other
_SHOWN = 3


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
        self._unreadable: set[int] = set()
        self.problem = self._find()
        if self.problem:
            logger.warning("%s", self.problem)
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
        shown = "no images are shown" if len(missing) == len(images) else "these are not shown"
        return (
            f"{len(missing):,} of {len(images):,} images do not exist in {self._root}, so that {shown} (image "
            f"{first_of(missing, _SHOWN)}); pass their folder as --image-root."
        )

    @property
    def any(self) -> bool:
        """Whether at least one image exists."""
        return any(path is not None for path in self._paths)

    @property
    def unreadable(self) -> int:
        """Number of images that exist and could not be decoded so far."""
        return len(self._unreadable)

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
        """(H, W, 3) uint8 RGB; None if the image can't be read, which is logged once for each image."""
        return self._read(image) if self.exists(image) else None

    def _read_uncached(self, image: int) -> np.ndarray | None:
        height, width = self.size(image)
        try:
            return read_pixels(os.path.join(self._root or "", self._paths[image] or ""), "RGB", (width, height))
        except ImageError as error:
            if not self._unreadable:
                logger.warning("Left out of the report: %s", error)
            self._unreadable.add(image)
            return None
