"""Decoding of image files in all raster formats that Pillow decodes itself, without Detectron2."""

from __future__ import annotations

import contextlib
import functools
import os
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from typing import IO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ...utils.errors import InputError
from ...utils.io import open_regular
from ...utils.text import one_line

# Raster formats that Pillow decodes itself. Left out are formats that it passes to a program (EPS), to a system library
# or to a plugin (WMF, BUFR, GRIB, HDF5), can't decode (MPEG), that can refer to other files (IPTC), or that it
# decompresses without a limit (FITS).
FORMATS = (
    *("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP", "AVIF", "JPEG2000"),
    *("BLP", "CUR", "DCX", "DDS", "DIB", "FLI", "FTEX", "GBR", "ICNS", "ICO", "IM", "IMT", "MCIDAS", "MSP"),
    *("PCD", "PCX", "PIXAR", "PSD", "QOI", "SGI", "SPIDER", "SUN", "TGA", "XBM", "XPM", "XVTHUMB"),
)
_OPENED_AS_JPEG = ("MPO",)  # several JPEGs in one file; the first one is read

# Errors of Pillow's decoders for files that are damaged, truncated or of an unknown kind.
DAMAGED = (
    *(OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError, MemoryError),
    *(struct.error, zlib.error, Image.DecompressionBombError),
)
_WIDE_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N")  # one channel of 16 bits; "I" can hold 32
_LARGEST_16_BIT = 65535
_ORIENTATION, _UPRIGHT = 0x0112, 1  # an EXIF tag and its value without a rotation


class ImageError(InputError):
    """An image that can't be read, or isn't the annotated one. The message is one line."""

    def __init__(self, message: str):
        # For an error in a loader's worker, torch's message is the worker's whole traceback.
        super().__init__(one_line(message.rpartition("ImageError: ")[2].strip()))


class WrongSizeImageError(ImageError):
    """An image whose size differs from the annotated one."""


@functools.cache
def image_formats() -> tuple[str, ...]:
    """The formats of :data:`FORMATS` that this version of Pillow supports."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


@functools.cache
def image_suffixes() -> frozenset[str]:
    """The file name suffixes, such as ".jpg", of the supported formats."""
    opened = (*image_formats(), *_OPENED_AS_JPEG)
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in opened)


def has_image_suffix(name: str) -> bool:
    """Whether a file name has one of the :func:`image_suffixes`, in upper or lower case."""
    return os.path.splitext(name)[1].lower() in image_suffixes()


@contextlib.contextmanager
def open_image(
    path: str | os.PathLike, size: tuple[int, int] | None = None, open_file: Callable[[str], IO[bytes]] = open_regular
) -> Iterator[Image.Image]:
    """
    Open an image without decoding it. All images are opened here.

    Args:
        path: path of the file, or anything else that ``open_file`` takes.
        size: annotated width and height, before or after the rotation by EXIF; None: any.
        open_file: opens the file for reading.

    Raises:
        ImageError: if the file is missing, damaged, of another size or not in a format of :data:`FORMATS`; errors of
            Pillow's decoders within the context are converted, too. The message has the path.
    """
    path = os.fspath(path)
    try:
        with _opened(path, open_file) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # large, but below the limit for attacks
            warnings.simplefilter("ignore", UserWarning)  # for damaged EXIF data, which is ignored
            with Image.open(file, formats=image_formats()) as image:
                if size is not None and sorted(image.size) != sorted(size):
                    raise _other_size(path, image.size, size)
                yield image
    except ImageError:
        raise
    except InputError as error:
        raise ImageError(f"Image {path} {error}") from None
    except FileNotFoundError:
        raise ImageError(f"Image {path} doesn't exist.") from None
    except UnidentifiedImageError:
        raise ImageError(f"Image {path} is not an image in a raster format that Pillow decodes itself.") from None
    except DAMAGED as error:
        raise ImageError(f"Image {path} can't be read: {str(error) or type(error).__name__}.") from error


def _opened(path: str, open_file: Callable[[str], IO[bytes]]) -> IO[bytes]:
    try:
        return open_file(path)
    except InputError as error:
        raise ImageError(f"Image {error}") from None


def _other_size(path: str | os.PathLike, found: tuple[int, int], size: tuple[int, int]) -> WrongSizeImageError:
    (width, height), (annotated_width, annotated_height) = found, size
    return WrongSizeImageError(
        f"Image {path} is {width} x {height} pixels, but annotated as {annotated_width} x {annotated_height}; "
        "correct one of them."
    )


def read_pil_image(
    path: str | os.PathLike, size: tuple[int, int] | None = None, open_file: Callable[[str], IO[bytes]] = open_regular
) -> Image.Image:
    """
    Read an image of any kind as a viewer shows it: upright, opaque, with 8 bits per channel.

    Greyscale, palette and CMYK images are converted to colour. Grey values of 16 bits are scaled to 8 bits, 65535 to
    255. Transparent pixels are composed over white. Images are rotated by their EXIF orientation, unless ``size`` shows
    that they were annotated without the rotation.

    Args:
        path, size, open_file: as for :func:`open_image`.

    Returns:
        an image of mode "RGB".

    Raises:
        ImageError: as for :func:`open_image`.
    """
    with open_image(path, size, open_file) as image:
        image.load()
        read = to_8_bit(turned(image, path, size))
        return read if read.mode == "RGB" else read.convert("RGB")


def turned(image: Image.Image, path: str | os.PathLike, size: tuple[int, int] | None) -> Image.Image:
    """
    The image, rotated by its EXIF orientation.

    Args:
        image: a decoded image.
        path: of the image, for the message.
        size: annotated width and height; None: any. An image that was annotated without the rotation is not rotated.

    Raises:
        WrongSizeImageError: if the image has not ``size``, with and without the rotation.
    """
    try:
        # Images that aren't rotated would be copied.
        upright = ImageOps.exif_transpose(image) if image.getexif().get(_ORIENTATION, _UPRIGHT) != _UPRIGHT else image
    except DAMAGED:  # unreadable EXIF data is ignored
        upright = image
    if size is None or upright.size == tuple(size):
        return upright
    if image.size == tuple(size):
        return image
    raise _other_size(path, upright.size, size)


def to_8_bit(image: Image.Image) -> Image.Image:
    """
    Convert to a mode from which Pillow's further conversions are correct.

    Raises:
        InputError: for grey values of another range; the message follows the file's name.
    """
    if image.mode in _WIDE_MODES:
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > _LARGEST_16_BIT:
            raise InputError("has grey values of more than 16 bits; save it with 8 or 16 bits.")
        return Image.fromarray(((values * 255 + _LARGEST_16_BIT // 2) // _LARGEST_16_BIT).astype(np.uint8))
    if image.mode == "F":
        raise InputError("has floating-point grey values, whose range is unknown; save it with 8 or 16 bits.")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image
