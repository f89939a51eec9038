"""Images in one folder per class."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

from ...utils.errors import InputError
from ...utils.io import open_regular
from .image_set import Dataset, ImageSet, register_dataset

# Errors of Pillow's decoders, as in data/images/image_files.py, which needs Detectron2.
_UNREADABLE = (
    *(OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError, MemoryError),
    *(struct.error, zlib.error, Image.DecompressionBombError),
)


@register_dataset("folder")
class ImageFolders(Dataset):
    """
    ``root/train/CLASS/*.jpg`` and ``root/test/CLASS/*.jpg``, found as by torchvision's ``ImageFolder``.

    Class indices follow the sorted names of the folders. Images are decoded when they are used, resized so that the
    shorter side has ``size`` pixels, and cropped to the centre.

    Args:
        root: folder with the two splits.
        test_split: name of the folder of the test set.
        size: side of the square that images are resized to, in pixels.

    Raises:
        InputError: if ``size`` is below 8.
    """

    def __init__(self, *, root: str = "", test_split: str = "test", size: int = 32):
        if size < 8:
            raise InputError(f"DATASET.FOLDER.SIZE is {size}; it must be at least 8 pixels.")
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
        from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset  # takes a second to import

        names = self._classes(split)
        folder = os.path.join(self._root, split)
        try:
            files = make_dataset(folder, {name: i for i, name in enumerate(names)}, IMG_EXTENSIONS)
        except FileNotFoundError as error:  # a class without images
            raise InputError(f"DATASET.FOLDER.ROOT {self._root!r}: {error}") from error
        return ImageSet(_Files([path for path, _ in files], self._size), np.array([label for _, label in files]), names)

    def _classes(self, split: str) -> tuple[str, ...]:
        from torchvision.datasets.folder import find_classes

        folder = os.path.join(self._root, split)
        if not self._root or not os.path.isdir(folder):
            raise InputError(
                f"DATASET.FOLDER.ROOT {self._root!r} has no folder {split!r}; it must have train and "
                f"{self._test_split}, each with one folder of images per class."
            )
        try:
            return tuple(find_classes(folder)[0])
        except FileNotFoundError as error:
            raise InputError(f"{folder!r} has no folders; it must have one folder of images per class.") from error


class _Files(Sequence):
    """Images that are decoded when they are used."""

    def __init__(self, paths: list[str], size: int):
        self._paths, self._size = paths, size

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index):
        path = self._paths[index]
        try:
            with open_regular(path) as file, Image.open(file) as opened:
                image = opened.convert("RGB")
        except InputError:  # a FIFO or a device
            raise
        except _UNREADABLE as error:
            raise InputError(f"Image {path!r} can't be decoded ({error}); remove or replace it.") from error
        scale = self._size / min(image.size)
        width, height = (max(self._size, round(side * scale)) for side in image.size)
        left, top = (width - self._size) // 2, (height - self._size) // 2
        resized = image.resize((width, height), Image.Resampling.BILINEAR)
        return np.asarray(resized.crop((left, top, left + self._size, top + self._size)))
