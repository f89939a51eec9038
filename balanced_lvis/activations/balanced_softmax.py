"""Balanced Softmax (Ren et al., Balanced Meta-Softmax for Long-Tailed Visual Recognition, NeurIPS 2020)."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..priors import ClassPrior, check_count
from .base import full_precision, register_activation
from .prior_module import PriorSource
from .softmax import Softmax, softmax_loss


def softmax_offset(prior: ClassPrior, count: str = "image") -> np.ndarray:
    """
    (K,) float64, log(K n_j / n): log n_j of Balanced Softmax, shifted so that equal counts give 0.

    The shift is the same for all classes, so a softmax over them doesn't change; it matters for the background output,
    see :class:`BalancedSoftmax`.

    Args:
        prior: of the training set.
        count: "image" or "instance", what n_j counts.
    """
    return np.log(prior.num_classes * prior.share(count))


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

    The papers treat classification, which has no background. The class-balanced metric asks for a uniform prior
    **among the K classes** and doesn't depend on how often a RoI is background, so the prior odds of foreground versus
    background stay those of training. With n_j divided by its mean n/K, which a softmax among the classes is invariant
    to, the offset is log(K n_j / n) for class j and 0 for the background output.

    Args:
        num_classes: K.
        prior: the training set's :class:`ClassPrior`.
        background: as in :class:`.base.Activation`.
        count: "image" or "instance", what n_j counts.

    Raises:
        InputError: for another ``count``.
    """

    needs_prior = True

    def __init__(self, num_classes: int, prior: PriorSource = None, background: bool = True, *, count: str = "image"):
        super().__init__(num_classes, prior, background)
        self.count = check_count(count)

    @property
    def offset(self) -> Tensor:
        """(C,) float32, what is added to the logits in training; 0 for the background."""
        return self.from_prior("offset", self._offset)

    def _offset(self, prior: ClassPrior) -> Tensor:
        offset = torch.as_tensor(softmax_offset(prior, self.count), dtype=torch.float32)
        return F.pad(offset, (0, int(self.background)))

    def training_shift(self):
        return softmax_offset(self.prior, self.count)

    def loss(self, logits, gt_classes, roi_weight=None):
        self._check(logits, roi_weight)
        return balanced_softmax_loss(full_precision(logits), gt_classes, self.offset, roi_weight)
