"""Softmax over the K classes and the background."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .base import Activation, full_precision, register_activation


def softmax_loss(logits: Tensor, gt_classes: Tensor) -> Tensor:
    """
    Cross entropy, averaged over RoIs.

    Args:
        logits: (R, C), C classes of any kind (K+1 in a detector).
        gt_classes: (R,) int64 in 0..C-1.

    Returns:
        scalar; 0 with gradients where R = 0.
    """
    if logits.shape[0] == 0:
        return logits.sum() * 0
    return F.cross_entropy(logits, gt_classes)


@register_activation("softmax")
class Softmax(Activation):
    """Detectron2's own classifier."""

    def loss(self, logits, gt_classes):
        self._check(logits)
        return softmax_loss(full_precision(logits), gt_classes)

    def scores(self, logits):
        self._check(logits)
        return full_precision(logits).softmax(dim=1)
