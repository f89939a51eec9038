"""Image files as Detectron2 takes them: from paths and URLs, in the channel order of a model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import IO

import numpy as np
from detectron2.data.detection_utils import convert_PIL_to_numpy
from detectron2.utils.file_io import PathManager
from PIL import Image

from ...utils.errors import InputError
from ...utils.io import open_regular
from . import decoding
from .decoding import DAMAGED, open_image, to_8_bit, turned


def _opened(path: str) -> IO[bytes]:
    return PathManager.open(path, "rb") if "://" in path else open_regular(path)


def annotated_size(record: Mapping) -> tuple[int, int] | None:
    """Width and height of the image of a dataset dict; None if it does not have both."""
    return (record["width"], record["height"]) if {"width", "height"} <= record.keys() else None


def read_image(path: str | os.PathLike, image_format: str = "BGR", size: tuple[int, int] | None = None) -> np.ndarray:
    """
    Read an image as Detectron2's ``read_image`` does, except for kinds of images that it reads wrongly or refuses.

    Greyscale, palette and CMYK images are converted to colour. Grey values of 16 bits are scaled to 8 bits, 65535 to
    255, instead of clipped at 255. Transparent pixels are composed over white. Images are rotated by their EXIF
    orientation, unless ``size`` shows that they were annotated without the rotation. Images of another size are not
    decoded.

    Args:
        path: path of the file, or a URL that Detectron2's ``PathManager`` supports.
        image_format: "BGR", "RGB" or another value of Detectron2's ``INPUT.FORMAT``.
        size: annotated width and height; None: any.

    Returns:
        (H, W, C) uint8 from 0 to 255; float64 for "YUV-BT.601".

    Raises:
        ImageError: as for :func:`.decoding.open_image`.
    """
    with open_image(path, size, _opened) as image:
        image.load()
        return np.array(convert_PIL_to_numpy(to_8_bit(turned(image, path, size)), image_format))


def read_pil_image(path: str | os.PathLike, size: tuple[int, int] | None = None) -> Image.Image:
    """
    As :func:`read_image` with "RGB", as a Pillow image of mode "RGB".

    Args:
        path, size: as for :func:`read_image`.

    Raises:
        ImageError: as for :func:`.decoding.open_image`.
    """
    return decoding.read_pil_image(path, size, _opened)


def pil_to_array(image: Image.Image, image_format: str = "BGR") -> np.ndarray:
    """
    Converts a PIL image as :func:`read_image` converts the image of a file.

    Args:
        image: of any mode.
        image_format: as for :func:`read_image`.

    Raises:
        InputError: if its pixels can't be decoded or are neither colours nor greys of at most 16 bits.
    """
    try:
        image.load()
        return np.array(convert_PIL_to_numpy(to_8_bit(turned(image, "", None)), image_format))
    except InputError as error:
        raise InputError(f"The PIL image {error}") from None
    except DAMAGED as error:
        raise InputError(f"The PIL image can't be read: {str(error) or type(error).__name__}.") from error
