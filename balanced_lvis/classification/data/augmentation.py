"""Random transforms of training images, by torchvision."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torchvision.transforms import v2

from ...utils.errors import InputError, did_you_mean

CROP_PADDING = 4  # pixels on each side
CUTOUT_SIDE = 16 / 32  # of the image's side


class Cutout(torch.nn.Module):
    """
    Cutout (DeVries and Taylor, 2017): grey out a square at a random place.

    torchvision's ``RandomErasing`` keeps the square inside the image, the paper's lets it overlap the border.

    Args:
        fill: three values from 0 to 255.
    """

    def __init__(self, fill: list[float]):
        super().__init__()
        area = CUTOUT_SIDE**2
        self._erase = v2.RandomErasing(p=1.0, scale=(area, area), ratio=(1.0, 1.0), value=fill)

    def forward(self, image: Tensor) -> Tensor:
        """(3, H, W) uint8 to the same."""
        return self._erase(image)


TRANSFORMS: dict[str, Callable[[list[float]], Callable[[Tensor], Tensor]]] = {
    "crop": lambda fill: _PaddedCrop(),
    "flip": lambda fill: v2.RandomHorizontalFlip(),
    "autoaugment": lambda fill: v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10),
    "cutout": Cutout,
}


class _PaddedCrop(torch.nn.Module):
    """A crop of the image's size after padding with zeros."""

    def forward(self, image: Tensor) -> Tensor:
        return v2.RandomCrop(list(image.shape[-2:]), padding=CROP_PADDING)(image)


def build_transforms(names: Iterable[str], fill: list[float]) -> Callable[[Tensor], Tensor] | None:
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
    return v2.Compose([TRANSFORMS[name](fill) for name in names]) if names else None
