"""Pictures from disk, of whatever kind, as the arrays that models take."""

from __future__ import annotations

import os
import struct
import warnings
import zlib

import numpy as np
from detectron2.data.detection_utils import convert_PIL_to_numpy
from detectron2.utils.file_io import PathManager
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import InputError

# What Pillow's decoders raise on files that are damaged, cut off or of a kind that it doesn't know.
_DAMAGED = (
    *(OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError, MemoryError),
    *(struct.error, zlib.error, Image.DecompressionBombError),
)
_WIDE_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N")  # of one channel of 16 bits; "I" has room for 32
_LARGEST_16_BIT = 65535


class ImageError(InputError):
    """A picture that can't be read, or isn't the one that was annotated."""

    def __init__(self, message: str):
        # torch hands on what a loader's worker raises with the worker's traceback for a message.
        super().__init__(message.rpartition("ImageError: ")[2].strip())


def read_image(path: str | os.PathLike, image_format: str = "BGR", size: tuple[int, int] | None = None) -> np.ndarray:
    """
    Read a picture as Detectron2's ``read_image`` does, but for the kinds that it gets wrong or breaks on.

    Greyscale, palette and CMYK pictures become colour ones. Greys of 16 bits are scaled to 8, 65535 to 255, and not cut
    off at 255. Transparent pixels are shown on white, whatever colour hides beneath. Pictures are turned as their EXIF
    says; where ``size`` shows that they were annotated unturned, they stay so.

    Args:
        path: of the file, or an address that Detectron2's ``PathManager`` knows.
        image_format: "BGR", "RGB" or another one of Detectron2's ``INPUT.FORMAT``.
        size: width, height of the picture as annotated; None: any.

    Returns:
        (H, W, C) uint8 from 0 to 255; float64 for "YUV-BT.601".

    Raises:
        ImageError: naming the file, if it is missing, damaged or of another size.
    """
    path = os.fspath(path)
    try:
        with PathManager.open(path, "rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # large, and no attack yet
            warnings.simplefilter("ignore", UserWarning)  # of damaged EXIF, which is read as none
            with Image.open(file) as image:
                image.load()
                image = _turned(image, size)
                return np.array(convert_PIL_to_numpy(_to_8_bit(image), image_format))
    except InputError as error:
        raise ImageError(f"Image {path} {error}") from None
    except FileNotFoundError:
        raise ImageError(f"Image {path} isn't there.") from None
    except UnidentifiedImageError:
        raise ImageError(f"Image {path} is no picture, or of a kind that Pillow doesn't know.") from None
    except _DAMAGED as error:
        raise ImageError(f"Image {path} can't be read: {str(error) or type(error).__name__}.") from error


def _turned(image: Image.Image, size: tuple[int, int] | None) -> Image.Image:
    """
    Raises:
        InputError: if neither the turned nor the stored picture has ``size``; in words that follow the file's name.
    """
    try:
        turned = ImageOps.exif_transpose(image)
    except _DAMAGED:  # EXIF that can't be read says nothing
        turned = image
    if size is None or turned.size == tuple(size):
        return turned
    if image.size == tuple(size):
        return image
    width, height = turned.size
    raise InputError(f"is {width} x {height} pixels, but annotated as {size[0]} x {size[1]}; correct either.")


def _to_8_bit(image: Image.Image) -> Image.Image:
    """In a mode from which Pillow converts to others without loss of sense."""
    if image.mode in _WIDE_MODES:
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > _LARGEST_16_BIT:
            raise InputError("has greys of more than 16 bits; save it with 8 or 16.")
        return Image.fromarray(((values * 255 + _LARGEST_16_BIT // 2) // _LARGEST_16_BIT).astype(np.uint8))
    if image.mode == "F":
        raise InputError("has floating-point greys, whose range is unknown; save it with 8 or 16 bits.")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image
