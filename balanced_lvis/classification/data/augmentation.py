"""Random transforms of training images, by torchvision, whose import takes a second that other runs do not need."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor

from ...utils.errors import InputError, did_you_mean

CROP_PADDING = 4  # pixels on each side
CUTOUT_SHARE = (16 / 32) ** 2  # of the image's area

Transform = Callable[[Tensor], Tensor]  # of a (3, H, W) uint8 image


def padded_crop(fill: list[float]) -> Transform:
    """A crop of the image's size after padding with zeros."""
    return _PaddedCrop()


def flip(fill: list[float]) -> Transform:
    """A horizontal flip with probability 0.5."""
    from torchvision.transforms import v2

    return v2.RandomHorizontalFlip()


def autoaugment(fill: list[float]) -> Transform:
    """AutoAugment (Cubuk et al., CVPR 2019) with its policy for CIFAR-10."""
    from torchvision.transforms import v2

    return v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10)


def cutout(fill: list[float]) -> Transform:
    """
    Cutout (DeVries and Taylor, 2017): fill a square at a random place, of half the image's side.

    torchvision's ``RandomErasing`` keeps the square inside the image, the paper's can overlap the border.
    """
    from torchvision.transforms import v2

    return v2.RandomErasing(p=1.0, scale=(CUTOUT_SHARE, CUTOUT_SHARE), ratio=(1.0, 1.0), value=fill)


TRANSFORMS = {"crop": padded_crop, "flip": flip, "autoaugment": autoaugment, "cutout": cutout}


def build_transforms(names: Iterable[str], fill: list[float]) -> Transform | None:
    """
    Args:
        names: keys of :data:`TRANSFORMS`, in the order of their use.
        fill: (3,) values from 0 to 255 that Cutout fills with, usually the mean of the pixels.

    Returns:
        a function of a (3, H, W) uint8 image that draws from torch's global generator; None where there are no names.

    Raises:
        InputError: for an unknown name.
    """
    names = list(names)
    for name in names:
        if name not in TRANSFORMS:
            hint = did_you_mean(name, TRANSFORMS)
            raise InputError(f"INPUT.TRANSFORMS has {name!r}.{hint} Valid: {', '.join(TRANSFORMS)}.")
    transforms = [TRANSFORMS[name](fill) for name in names]
    return _Chain(transforms) if transforms else None


class _PaddedCrop:
    """A class, as workers that are not forked receive transforms by pickle."""

    def __call__(self, image: Tensor) -> Tensor:
        from torchvision.transforms import v2

        return v2.RandomCrop(list(image.shape[-2:]), padding=CROP_PADDING)(image)


class _Chain:
    """Transforms one after the other."""

    def __init__(self, transforms: list[Transform]):
        self._transforms = transforms

    def __call__(self, image: Tensor) -> Tensor:
        for transform in self._transforms:
            image = transform(image)
        return image
