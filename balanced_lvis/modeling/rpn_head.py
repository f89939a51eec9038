"""
Detectron2's RPN head with a sparse backward pass on the CPU.

The losses of an RPN use 256 anchors per image, so the gradient of its predictions is zero everywhere else. The backward
pass of a convolution over the whole image, twice the work of the forward pass, is mostly spent on zeros. Here it visits
the sampled positions only.

These positions must be known before their gradient is computed. On a GPU, the host would wait for the device in the
backward pass of every level, and one convolution would become dozens of small kernels. So GPUs use Detectron2's head.

Shape shorthand: N images, C channels, H x W positions of a level, A anchors per position, P positions with a gradient.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from detectron2.modeling.proposal_generator import RPN_HEAD_REGISTRY
from detectron2.modeling.proposal_generator.rpn import StandardRPNHead
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

OFFSETS = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)]  # in a 3x3 kernel, in the order of its weights


@RPN_HEAD_REGISTRY.register()
class SampledRPNHead(StandardRPNHead):
    """
    ``StandardRPNHead`` whose backward pass visits only positions with a gradient.

    Parameters, their names and predictions are bit-identical to Detectron2's; gradients are equal up to the rounding of
    sums. On a GPU, under autocast, and with several hidden layers (``MODEL.RPN.CONV_DIMS``), it is Detectron2's head.
    Hooks on the layers don't run in training, as parameters are read without calling the layers.

    Args:
        **kwargs: as for ``StandardRPNHead``.
    """

    def forward(self, features: list[Tensor]):
        """
        Args:
            features: (N, C, H, W) per level.

        Returns:
            objectness logits, (N, A, H, W) per level, and anchor deltas, (N, 4A, H, W) per level.
        """
        if not self._can_skip_zeros(features):
            return super().forward(features)
        layers = self.conv, self.objectness_logits, self.anchor_deltas
        parameters = [parameter for layer in layers for parameter in (layer.weight, layer.bias)]
        found = [_Predictions.apply(level, *parameters) for level in features]
        return [logits for logits, _ in found], [deltas for _, deltas in found]

    def _can_skip_zeros(self, features: list[Tensor]) -> bool:
        return (
            features[0].device.type == "cpu"
            and torch.is_grad_enabled()
            and isinstance(self.conv, nn.Conv2d)
            and not torch.is_autocast_enabled("cpu")
            and not torch.jit.is_tracing()
        )


class _Predictions(torch.autograd.Function):
    """Objectness logits and deltas of a level."""

    @staticmethod
    def forward(ctx, x, weight, bias, logits_weight, logits_bias, deltas_weight, deltas_bias):
        hidden = F.conv2d(x, weight, bias, padding=1).relu_()
        ctx.save_for_backward(x, hidden, weight, logits_weight, deltas_weight)
        return F.conv2d(hidden, logits_weight, logits_bias), F.conv2d(hidden, deltas_weight, deltas_bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients):
        x, hidden, weight, logits_weight, deltas_weight = ctx.saved_tensors
        image, row, column = torch.cat(gradients, 1).ne(0).any(1).nonzero(as_tuple=True)
        at_places = [_channels_last(g)[image, row, column] for g in gradients]  # (P, A) and (P, 4A)
        hidden = _channels_last(hidden)[image, row, column]  # (P, C)
        found = []
        gradient: Any = 0
        for of_output, output_weight in zip(at_places, (logits_weight, deltas_weight)):
            found += [(of_output.T @ hidden).view_as(output_weight), of_output.sum(0)]
            gradient = gradient + of_output @ output_weight.flatten(1)
        gradient = gradient * (hidden > 0)
        neighbours = [_Neighbours(x, image, row + y, column + x_) for y, x_ in OFFSETS]
        of_weight = torch.stack([gradient.T @ n.values(x) for n in neighbours], dim=2).view_as(weight)
        of_x = _gradient_of_input(x, weight, gradient, neighbours) if ctx.needs_input_grad[0] else None
        return of_x, of_weight, gradient.sum(0), *found


class _Neighbours:
    """The neighbours of the P positions at one offset, if inside the image."""

    def __init__(self, x: Tensor, image: Tensor, row: Tensor, column: Tensor):
        self.inside = (row >= 0) & (row < x.shape[2]) & (column >= 0) & (column < x.shape[3])
        self.index = tuple(part[self.inside] for part in (image, row, column))

    def values(self, x: Tensor) -> Tensor:
        """(P, C), 0 outside the image."""
        found = x.new_zeros(len(self.inside), x.shape[1])
        found[self.inside] = _channels_last(x)[self.index]
        return found


def _gradient_of_input(x: Tensor, weight: Tensor, gradient: Tensor, neighbours: list[_Neighbours]) -> Tensor:
    """
    Args:
        gradient: (P, C), gradient of the hidden layer before its ReLU.

    Returns:
        (N, C, H, W).
    """
    found = torch.zeros_like(x)
    places = _channels_last(found)
    for kernel, n in zip(weight.flatten(2).unbind(2), neighbours):
        # No position occurs twice at one offset, so the order of the sum is defined.
        places[n.index] = places[n.index] + gradient[n.inside] @ kernel
    return found


def _channels_last(x: Tensor) -> Tensor:
    """View as (N, H, W, C)."""
    return x.permute(0, 2, 3, 1)
