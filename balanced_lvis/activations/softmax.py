"""Softmax over the K classes and the background."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .base import Activation, full_precision, register_activation


def softmax_loss(logits: Tensor, gt_classes: Tensor, roi_weight: Tensor | None = None) -> Tensor:
    """
    Cross entropy, averaged over RoIs.

    Args:
        logits: (R, C), C classes, background included (K+1 in a detector).
        gt_classes: (R,) int64 in 0..C-1.
        roi_weight: (R,) weight of each RoI's loss, 1 by default. The divisor stays R, and gradients reach the weights.

    Returns:
        scalar; 0 with gradients where R = 0.
    """
    if logits.shape[0] == 0:
        return logits.sum() * 0
    if roi_weight is None:
        return F.cross_entropy(logits, gt_classes)
    # Weighted before torch's mean, so that weights of one give the unweighted loss to the last bit.
    return F.nll_loss(F.log_softmax(logits, dim=1) * roi_weight.to(logits.dtype)[:, None], gt_classes)


@register_activation("softmax")
class Softmax(Activation):
    """Softmax over all outputs, as in Detectron2's classifier."""

    family = "softmax"
    normalized_scores = True

    def loss(self, logits, gt_classes, roi_weight=None):
        self._check(logits, roi_weight)
        return softmax_loss(full_precision(logits), gt_classes, roi_weight)

    def unshifted_loss(self, logits, gt_classes):
        return Softmax.loss(self, logits, gt_classes)  # subclasses override loss(), not the scores

    def scores(self, logits):
        self._check(logits)
        return full_precision(logits).softmax(dim=1)
