"""Images in one folder per class."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

import numpy as np
from PIL import Image

from ...data.images.decoding import ImageError, read_pil_image
from ...utils.errors import InputError
from ...utils.once import once
from ...utils.text import one_line
from .image_set import Dataset, ImageSet, register_dataset
from .listing import folders_in, list_images

_SMALLEST, _LARGEST = 8, 4096  # DATASET.FOLDER.SIZE, in pixels

logger = logging.getLogger(__name__)


@register_dataset("folder")
class ImageFolders(Dataset):
    """
    Images in ``root/train/CLASS/`` and ``root/test/CLASS/`` and the folders in these, in the formats of detection.

    Class indices follow the sorted names of the folders. Images are resized so that the shorter side has ``size``
    pixels, and cropped to the centre. Hidden files and folders are left out.

    Args:
        root: folder with the two splits.
        test_split: name of the folder of the test set.
        size: side of the square that images are resized to, in pixels.

    Raises:
        InputError: if ``size`` is below 8 or above 4096.
    """

    def __init__(self, *, root: str = "", test_split: str = "test", size: int = 32):
        if not _SMALLEST <= size <= _LARGEST:
            raise InputError(f"DATASET.FOLDER.SIZE is {size}; choose {_SMALLEST} to {_LARGEST} pixels.")
        self._root, self._test_split, self._size = root, test_split, size

    def train(self):
        return self._split("train")

    def test(self):
        test = self._split(self._test_split)
        names = self._classes("train")
        if test.class_names != names:
            raise InputError(
                f"DATASET.FOLDER.ROOT {self._root!r}: {self._test_split} and train have different classes, such as "
                f"{sorted({*test.class_names} ^ {*names})[0]!r}; both need the same folders."
            )
        return test

    def _split(self, split: str) -> ImageSet:
        names = self._classes(split)
        found = [list_images(os.path.join(self._root, split, name)) for name in names]
        _report_left_out(_REPEATED, [path for listing in found for path in listing.repeated])
        _report_left_out(_OTHERS, [path for listing in found for path in listing.others])
        for name, listing in zip(names, found):
            if not listing.images:
                raise InputError(
                    f"{os.path.join(self._root, split, name)!r} has no images; add some, such as .jpg or .png, or "
                    f"remove the folder from train and {self._test_split}."
                )
        labels = np.repeat(np.arange(len(names)), [len(listing.images) for listing in found])
        return ImageSet(_Files([path for listing in found for path in listing.images], self._size), labels, names)

    def _classes(self, split: str) -> tuple[str, ...]:
        needed = f"it must have train and {self._test_split}, each with one folder of images per class"
        if not self._root:
            raise InputError(f"DATASET.FOLDER.ROOT is empty; set it to the folder of your images: {needed}.")
        folder = os.path.join(self._root, split)
        if not os.path.isdir(folder):
            raise InputError(f"DATASET.FOLDER.ROOT {self._root!r} has no folder {split!r}; {needed}.")
        names = folders_in(folder)
        if not names:
            raise InputError(f"{folder!r} has no folders; it must have one folder of images per class.")
        return names


_REPEATED = "Left out are paths to an image or folder found before, or to a parent folder: %d, such as %s"
_OTHERS = "Left out are files without a suffix of an image format: %d, such as %s"


def _report_left_out(message: str, paths: list[str]) -> None:
    if paths:
        _warn(message, len(paths), paths[0])


@once
def _warn(message: str, count: int, first: str) -> None:
    logger.warning(message, count, one_line(first))


class _Files(Sequence):
    """Images that are decoded when they are used."""

    def __init__(self, paths: list[str], size: int):
        self._paths, self._size = paths, size

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index):
        try:
            image = read_pil_image(self._paths[index])
        except ImageError as error:
            raise ImageError(f"{error} Remove or replace it.") from None
        return np.asarray(_centre(image, self._size))


def _centre(image: Image.Image, size: int) -> Image.Image:
    """The central square of an image whose shorter side is resized to ``size``."""
    scale = size / min(image.size)
    resized = [max(size, round(side * scale)) for side in image.size]
    starts = [(side - size) // 2 for side in resized]
    # Only the square is resized: the whole of an image of 1 x 60,000 pixels would take a gigabyte.
    ratios = [side / new for side, new in zip(image.size, resized)]
    (left, right), (top, bottom) = ((start * ratio, (start + size) * ratio) for start, ratio in zip(starts, ratios))
    return image.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, right, bottom))
