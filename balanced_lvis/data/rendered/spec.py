"""Parameters of a rendered dataset."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from dataclasses import dataclass

from ...utils.errors import InputError
from .glyphs import MAX_CLASSES

SPLITS = ("train", "val", "test_dev")

_SMALLEST_OBJECT = 6  # pixels


@dataclass(frozen=True)
class RenderedSpec:
    """Parameters that determine a rendered dataset: equal specs give equal bytes.

    Attributes:
        num_classes: number of characters, 1 to 1203.
        train_images, val_images, test_images: number of images of each split, at least 1.
        image_size: height and width in pixels, 48 to 4096; or one number for both.
        objects_per_image: mean number of annotated objects of an image, 1 to 20.
        object_scale: range of a sticker's larger side relative to the image's shorter side.
        seed: at least 0.

    Raises:
        InputError: if a value has the wrong type or is out of range.
    """

    num_classes: int = 100
    train_images: int = 1600
    val_images: int = 400
    test_images: int = 40
    image_size: tuple[int, int] = (128, 128)
    objects_per_image: int = 5
    object_scale: tuple[float, float] = (0.22, 0.45)
    seed: int = 0

    def __post_init__(self) -> None:
        checked = {
            "num_classes": _integer("num_classes", self.num_classes, 1, MAX_CLASSES),
            "train_images": _integer("train_images", self.train_images, 1, 10_000_000),
            "val_images": _integer("val_images", self.val_images, 1, 10_000_000),
            "test_images": _integer("test_images", self.test_images, 1, 10_000_000),
            "image_size": _size(self.image_size),
            "objects_per_image": _integer("objects_per_image", self.objects_per_image, 1, 20),
            "object_scale": _scale(self.object_scale),
            "seed": _integer("seed", self.seed, 0, 2**63 - 1),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        pixels = self.object_scale[0] * min(self.image_size)
        if pixels < _SMALLEST_OBJECT:
            raise InputError(
                f"object_scale is {self.object_scale}, which makes stickers of {pixels:.1f} pixels in "
                f"images of {self.image_size}; choose at least {_SMALLEST_OBJECT / min(self.image_size):.3f}"
            )

    def num_images(self, split: str) -> int:
        """The number of images of a split, one of ``SPLITS``."""
        return {"train": self.train_images, "val": self.val_images, "test_dev": self.test_images}[split]


def _integer(name: str, value, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or not low <= int(value) <= high:
        raise InputError(f"{name} is {value!r}; choose whole numbers from {low} to {high}")
    return int(value)


def _size(value) -> tuple[int, int]:
    try:
        pair = (value, value) if isinstance(value, numbers.Number) else _pair("image_size", value)
        height, width = (_integer("image_size", n, 48, 4096) for n in pair)
    except InputError:
        raise InputError(f"image_size is {value!r}; choose (height, width) from 48 to 4096 pixels") from None
    return height, width


def _pair(name: str, value) -> tuple:
    if isinstance(value, str) or not isinstance(value, Sequence) or len(value) != 2:
        raise InputError(f"{name} is {value!r}; give two numbers")
    return tuple(value)


def _scale(value) -> tuple[float, float]:
    low, high = _pair("object_scale", value)
    numeric = all(isinstance(v, numbers.Real) and not isinstance(v, bool) for v in (low, high))
    if not numeric or not 0 < low <= high <= 0.8:
        raise InputError(f"object_scale is {value!r}; choose 0 < lowest <= highest <= 0.8")
    return float(low), float(high)
