"""Fashion-MNIST (Xiao et al., 2017) from its IDX files."""

from __future__ import annotations

import gzip
import os
import zlib

import numpy as np

from ...utils.errors import InputError
from ...utils.io import open_regular
from .image_set import Dataset, ImageSet, register_dataset

CLASS_NAMES = (
    "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle_boot",
)  # fmt: skip
# Where Debian's package dataset-fashion-mnist installs the files.
DEBIAN_ROOT = "/usr/share/datasets/fashion-mnist"
_UNSIGNED_BYTE = 8
_SIDE = 28
_PADDING = 2  # to 32 pixels, so that networks for CIFAR fit
_MOST_BYTES = 60_000 * _SIDE * _SIDE + 16  # of the largest file
_GZIP = b"\x1f\x8b"


@register_dataset("fashion_mnist")
class FashionMNIST(Dataset):
    """
    70,000 images of clothes in 10 classes, padded from 28 to 32 pixels and repeated in three channels.

    Args:
        root: folder with ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte`` and the two ``t10k-`` files, each
            with or without ``.gz``. The default is where Debian's package ``dataset-fashion-mnist`` installs them.
    """

    def __init__(self, *, root: str = DEBIAN_ROOT):
        self._root = root

    def train(self):
        return self._split("train")

    def test(self):
        return self._split("t10k")

    def _split(self, split: str) -> ImageSet:
        images = read_idx(self._path(f"{split}-images-idx3-ubyte"), 3)
        path = self._path(f"{split}-labels-idx1-ubyte")
        labels = read_idx(path, 1)
        if images.shape[1:] != (_SIDE, _SIDE) or len(images) != len(labels) or not len(images):
            raise InputError(
                f"DATASET.FASHION_MNIST.ROOT {self._root!r}: images of {split} have shape {images.shape} and labels "
                f"{labels.shape}; they must be (N, {_SIDE}, {_SIDE}) and (N,), N above 0. Restore the original files."
            )
        if labels.max() >= len(CLASS_NAMES):
            raise InputError(
                f"{path!r} has the label {labels.max()}, above {len(CLASS_NAMES) - 1}; restore the original file."
            )
        padded = np.pad(images, ((0, 0), (_PADDING, _PADDING), (_PADDING, _PADDING)))
        return ImageSet(np.repeat(padded[..., None], 3, axis=3), labels.astype(np.int64), CLASS_NAMES)

    def _path(self, name: str) -> str:
        for candidate in (name, f"{name}.gz"):
            if os.path.isfile(path := os.path.join(self._root, candidate)):
                return path
        raise InputError(
            f"DATASET.FASHION_MNIST.ROOT {self._root!r} has no {name} or {name}.gz; install Debian's package "
            "dataset-fashion-mnist, or download the four files from https://github.com/zalandoresearch/fashion-mnist."
        )


def read_idx(path: str, dimensions: int) -> np.ndarray:
    """
    Read an IDX file of unsigned bytes: a header of big-endian sizes, then the values.

    Args:
        path: file, gzip-compressed or not.
        dimensions: number of dimensions that it must have.

    Raises:
        InputError: if it is damaged or of another type.
    """
    try:
        with open_regular(path) as file:
            compressed = file.read(2) == _GZIP
            file.seek(0)
            reader = gzip.GzipFile(fileobj=file) if compressed else file
            content = reader.read(_MOST_BYTES + 1)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise InputError(f"{path!r} can't be read: {error}; restore the original file.") from error
    start = 4 + 4 * dimensions
    if len(content) < start or content[:4] != bytes((0, 0, _UNSIGNED_BYTE, dimensions)):
        raise InputError(f"{path!r} is not an IDX file of unsigned bytes in {dimensions} dimensions.")
    shape = tuple(int.from_bytes(content[i : i + 4], "big") for i in range(4, start, 4))
    expected = int(np.prod(shape, dtype=object))
    if len(content) - start != expected:
        raise InputError(
            f"{path!r} is damaged: its header promises {expected:,} values, but {len(content) - start:,} follow; "
            "restore the original file."
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
