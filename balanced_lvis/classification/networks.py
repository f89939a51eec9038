"""
Networks of image classification, and their registry.

Shape shorthand: B images, H x W pixels, D features.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ..utils.errors import InputError
from ..utils.registry import Registry

NETWORKS: Registry[type[Network]] = Registry("network")
_LARGEST = 1024  # width and stride; a wider resnet8 has more than 200 million parameters


class Network(nn.Module):
    """
    Images to features; the classifier on top comes from the activation.

    Subclasses declare their options as keyword-only parameters of the constructor, set :attr:`out_features`, define
    ``forward`` from (B, 3, H, W) float32 to (B, D), and register themselves with ``NETWORKS.register``.
    """

    out_features: int  # D


class CifarResNet(Network):
    """
    Residual network for CIFAR (He et al., Deep Residual Learning for Image Recognition, CVPR 2016, section 4.2).

    A 3x3 convolution, three stages of n blocks of two 3x3 convolutions with ``width``, 2 ``width`` and 4 ``width``
    channels, and average pooling: 6n+2 layers with the classifier. Shortcuts between stages take every second pixel
    and pad channels with zeros (option A), without parameters.

    Args:
        depth: 6n+2.
        width: channels of the first stage, at most 1024; 16 in the paper.
        stem_stride: stride of the first convolution, 1 in the paper.

    Raises:
        InputError: if ``width`` or ``stem_stride`` is out of range, or ``depth`` is not 6n+2.
    """

    def __init__(self, depth: int, width: int, stem_stride: int):
        super().__init__()
        for name, value in (("WIDTH", width), ("STEM_STRIDE", stem_stride)):
            if not 1 <= value <= _LARGEST:
                raise InputError(f"{name} of MODEL.NETWORK is {value}; choose 1 to {_LARGEST}.")
        blocks, rest = divmod(depth - 2, 6)
        if blocks < 1 or rest:
            raise InputError(f"CifarResNet: depth is {depth}; it must be 6n+2, such as 8, 14, 20 or 32.")
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, stem_stride, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        stages = []
        channels = width
        for stage in range(3):
            for block in range(blocks):
                outgoing = width << stage
                stages.append(_Block(channels, outgoing, stride=2 if stage and not block else 1))
                channels = outgoing
        self.stages = nn.Sequential(*stages)
        self.out_features = channels
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, D)."""
        return self.stages(self.stem(images)).mean(dim=(2, 3))


class _Block(nn.Module):
    def __init__(self, incoming: int, outgoing: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(incoming, outgoing, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outgoing)
        self.conv2 = nn.Conv2d(outgoing, outgoing, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outgoing)
        self._stride, self._missing = stride, outgoing - incoming

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.norm1(self.conv1(x)))
        out = self.norm2(self.conv2(out))
        if self._stride > 1 or self._missing:
            before = self._missing // 2
            x = F.pad(x[:, :, :: self._stride, :: self._stride], (0, 0, 0, 0, before, self._missing - before))
        return F.relu(out + x)


@NETWORKS.register("resnet32")
class ResNet32(CifarResNet):
    """
    The 32-layer :class:`CifarResNet` of most tables on long-tailed CIFAR: 0.46 million parameters.

    Args:
        width: as of :class:`CifarResNet`.
    """

    def __init__(self, *, width: int = 16):
        super().__init__(32, width, stem_stride=1)


@NETWORKS.register("resnet8")
class ResNet8(CifarResNet):
    """
    The 8-layer :class:`CifarResNet`, for CPUs.

    Args:
        width: as of :class:`CifarResNet`.
        stem_stride: as of :class:`CifarResNet`; 2 takes a quarter of the time.
    """

    def __init__(self, *, width: int = 24, stem_stride: int = 2):
        super().__init__(8, width, stem_stride)
