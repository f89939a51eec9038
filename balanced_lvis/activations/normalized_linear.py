"""Normalized linear classifier (Wang et al., Seesaw Loss for Long-Tailed Instance Segmentation, CVPR 2021)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..utils.errors import InputError
from .base import full_precision

_EPSILON = 1e-6  # least norm, as in the authors' code


def unit_vectors(x: Tensor) -> Tensor:
    """``x`` divided by its norm along dimension 1; 0 stays 0."""
    return F.normalize(x, dim=1, eps=_EPSILON)


def check_temperature(temperature: float, name: str) -> float:
    """
    Args:
        temperature: factor of the cosine.
        name: of the option, for the message.

    Returns:
        ``temperature``.

    Raises:
        InputError: if it is not positive.
    """
    if not 0 < temperature < math.inf:
        raise InputError(f"{name} is {temperature}; it must be positive, such as 20.")
    return temperature


def normalized_kind(temperature: float) -> str:
    """Description of a normalized classifier or mask predictor, which checkpoints record."""
    return f"normalized with temperature {temperature:g}"


class NormalizedLinear(nn.Linear):
    """
    Linear layer of a cosine: z_j = t cos(theta_j) + b_j, where theta_j is the angle between features and weights.

    Args:
        in_features: D.
        out_features: C.
        temperature: the factor t.
    """

    def __init__(self, in_features: int, out_features: int, temperature: float = 20.0):
        super().__init__(in_features, out_features)
        self.temperature = temperature

    def forward(self, x: Tensor) -> Tensor:
        """(R, D) to (R, C), in full precision under autocast, too."""
        features = self.temperature * unit_vectors(full_precision(x))
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(features, unit_vectors(self.weight), self.bias)
