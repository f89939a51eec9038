"""Balanced Softmax (Ren et al., Balanced Meta-Softmax for Long-Tailed Visual Recognition, NeurIPS 2020)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import full_precision, register_activation
from .softmax import Softmax, softmax_loss


def balanced_softmax_loss(
    logits: Tensor, gt_classes: Tensor, offset: Tensor, roi_weight: Tensor | None = None
) -> Tensor:
    """
    Cross entropy of softmax(``logits + offset``).

    Args:
        logits: (R, C).
        gt_classes: (R,) int64 in 0..C-1.
        offset: (C,), log n_j up to a constant.
        roi_weight: (R,), as in :func:`balanced_lvis.activations.softmax_loss`.

    Returns:
        scalar, averaged over RoIs.
    """
    return softmax_loss(logits + offset.to(logits.dtype), gt_classes, roi_weight)


@register_activation("balanced_softmax")
class BalancedSoftmax(Softmax):
    """
    Softmax over ``logits + log n_j`` in training and over the raw logits at test time.

    The papers treat classification, where there is no background. Here the decision is: the class-balanced metric
    asks for a uniform prior **among the K classes** and says nothing of how often a RoI is background, so the prior
    odds of foreground against background stay those of training. With n_j divided by its mean n/K (which no softmax
    among classes can see), that is: offset log(K n_j / n) for class j and 0 for the background unit.

    Args:
        num_classes: K.
        prior: the training set's :class:`ClassPrior`.
        count: "image" or "instance", what n_j counts.
    """

    needs_prior = True

    def __init__(self, num_classes, prior=None, *, count: str = "image"):
        super().__init__(num_classes, prior)
        offset = torch.as_tensor(prior.softmax_offset(count), dtype=torch.float32)
        self.offset: Tensor
        self.register_buffer("offset", F.pad(offset, (0, 1)), persistent=False)

    def loss(self, logits, gt_classes, roi_weight=None):
        self._check(logits, roi_weight)
        return balanced_softmax_loss(full_precision(logits), gt_classes, self.offset, roi_weight)
