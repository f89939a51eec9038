"""
Detectron2's image augmentations on Pillow images.

Detectron2 converts an image to an array before its augmentations, and back for each resize. The pixels are the same
without these conversions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
import torch
from detectron2.data import transforms as T
from PIL import Image
from torch import Tensor

# Each returns the image after a transform.
_APPLY: dict[type[T.Transform], Callable] = {
    T.NoOpTransform: lambda transform, image: image,
    T.HFlipTransform: lambda transform, image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    T.VFlipTransform: lambda transform, image: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
    T.CropTransform: lambda transform, image: image.crop(
        # Detectron2 slices an array, so that a crop ends at the edge of the image.
        (
            transform.x0,
            transform.y0,
            min(transform.x0 + transform.w, image.width),
            min(transform.y0 + transform.h, image.height),
        )
    ),
    T.ResizeTransform: lambda transform, image: image.resize((transform.new_w, transform.new_h), transform.interp),
    T.TransformList: lambda transforms, image: _applied(transforms.transforms, image),
}


def _applied(transforms: Sequence[T.Transform], image: Image.Image) -> Image.Image:
    for transform in transforms:
        image = _APPLY[type(transform)](transform, image)
    return image


class ResizeShortestEdge(T.ResizeShortestEdge):
    """Detectron2's transform, except that the limit of the longer side never rounds the shorter side to 0 pixels."""

    def get_transform(self, image):
        """As in the base class."""
        return _keeping_a_pixel(super().get_transform(image))


class ResizeScale(T.ResizeScale):
    """Detectron2's transform, except that it never rounds the shorter side to 0 pixels."""

    def get_transform(self, image):
        """As in the base class."""
        return _keeping_a_pixel(super().get_transform(image))


def _keeping_a_pixel(transform: T.Transform) -> T.Transform:
    if isinstance(transform, T.ResizeTransform):
        transform.new_h, transform.new_w = max(transform.new_h, 1), max(transform.new_w, 1)
    return transform


# Augmentations that depend on the size of an image only, and whose transforms are in the table above.
_OF_SIZE = (
    *(ResizeShortestEdge, T.ResizeShortestEdge, ResizeScale, T.ResizeScale),
    *(T.RandomFlip, T.RandomCrop, T.FixedSizeCrop),
)


def are_of_size(augmentations: Sequence[T.Augmentation]) -> bool:
    """Whether :func:`augment` supports all of these augmentations."""
    return all(type(one) in _OF_SIZE and not getattr(one, "pad", False) for one in augmentations)


def augment(image: Image.Image, augmentations: Sequence[T.Augmentation]) -> tuple[Image.Image, T.TransformList]:
    """
    Augment an image as Detectron2's ``AugmentationList`` does, with the same random numbers.

    Args:
        image: of mode "RGB".
        augmentations: for which :func:`are_of_size` is true.

    Returns:
        the augmented image, and its transforms.
    """
    transforms = []
    for augmentation in augmentations:
        # An array of this size without pixels: every element is the same byte.
        transform = augmentation.get_transform(np.broadcast_to(np.uint8(0), (image.height, image.width, 3)))
        image = _APPLY[type(transform)](transform, image)
        transforms.append(transform)
    return image, T.TransformList(transforms)


def channels_first(image: Image.Image, image_format: str) -> Tensor:
    """
    The pixels of an RGB image as a tensor.

    Args:
        image: of mode "RGB".
        image_format: the order of channels, "BGR" or "RGB".

    Returns:
        (3, H, W) uint8.
    """
    pixels = np.empty((3, image.height, image.width), np.uint8)
    # OpenCV writes the channels directly to their places, faster than NumPy's transpose and than Pillow's split.
    cv2.split(np.asarray(image), [pixels[image_format.index(channel)] for channel in "RGB"])
    return torch.from_numpy(pixels)
