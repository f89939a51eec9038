"""K independent sigmoids, one class versus the rest."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from ..utils.errors import InputError
from .base import Activation, full_precision, register_activation
from .prior_module import PriorSource


def one_hot_targets(logits: Tensor, gt_classes: Tensor) -> Tensor:
    """(R, K) of ``logits``' dtype: 1 at each foreground RoI's class, 0 elsewhere. Arguments as :func:`sigmoid_loss`."""
    num_classes = logits.shape[1]
    return F.one_hot(gt_classes, num_classes + 1)[:, :num_classes].to(logits.dtype)


def sigmoid_loss(logits: Tensor, gt_classes: Tensor, weight: Tensor | None = None) -> Tensor:
    """
    Binary cross entropy of K one-versus-rest classifiers, summed over classes and averaged over RoIs.

    Args:
        logits: (R, K), without a background unit.
        gt_classes: (R,) int64 in 0..K; K, the background, is the row of all negatives.
        weight: weights of the entries' losses, broadcastable to (R, K), 1 by default. Gradients reach them.

    Returns:
        scalar: (weighted) sum over all R*K entries / R.
    """
    if logits.shape[0] == 0:
        return logits.sum() * 0
    target = one_hot_targets(logits, gt_classes)
    if weight is None:
        return F.binary_cross_entropy_with_logits(logits, target, reduction="sum") / logits.shape[0]
    # Not torch's weight=, which isn't differentiable.
    losses = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (losses * weight.to(logits.dtype)).sum() / logits.shape[0]


def without_negatives(logits: Tensor, gt_classes: Tensor, ignored: Tensor) -> Tensor:
    """
    (R, K) weights for :func:`sigmoid_loss`, of ``logits``' dtype: 0 for ignored entries that are negatives, else 1.

    Args:
        logits: (R, K), for their dtype and shape.
        gt_classes: (R,) int64 in 0..K, K for background.
        ignored: (R, K) bool.
    """
    return 1 - ignored.to(logits.dtype) * (1 - one_hot_targets(logits, gt_classes))


def weight_rows(roi_weight: Tensor | None) -> Tensor | None:
    """(R,) weights of RoIs as the (R, 1) weight of :func:`sigmoid_loss`; None stays None."""
    return None if roi_weight is None else roi_weight[:, None]


@register_activation("sigmoid")
class Sigmoid(Activation):
    """
    Plain sigmoid. The background output is neither trained nor read: a background RoI has K low scores.

    Args:
        num_classes: K.
        prior: not used.
        background: as in :class:`Activation`.
        prior_probability: initial score of every class, set by the classifier's bias. Without it, the 1,203 sigmoids
            of LVIS start at 0.5 and the first loss is about 834.
    """

    family = "sigmoid"

    def __init__(
        self,
        num_classes: int,
        prior: PriorSource = None,
        background: bool = True,
        *,
        prior_probability: float = 0.001,
    ):
        super().__init__(num_classes, prior, background)
        if not 0 < prior_probability < 1:
            raise InputError(f"prior_probability is {prior_probability}; it must lie between 0 and 1.")
        self.prior_probability = prior_probability

    def loss(self, logits, gt_classes, roi_weight=None):
        self._check(logits, roi_weight)
        return sigmoid_loss(self.class_logits(full_precision(logits)), gt_classes, weight_rows(roi_weight))

    def unshifted_loss(self, logits, gt_classes):
        return Sigmoid.loss(self, logits, gt_classes)  # subclasses override loss(), not the scores

    def scores(self, logits):
        self._check(logits)
        # The background's score is 0; Detectron2's inference drops its column. The sigmoid is computed before the
        # column is cut off, as torch's result differs in the last bit on memory that is not contiguous.
        scores = self.class_logits(full_precision(logits).sigmoid())
        return F.pad(scores, (0, int(self.background)))

    def init_bias_(self, bias):
        nn.init.constant_(bias, -math.log((1 - self.prior_probability) / self.prior_probability))
