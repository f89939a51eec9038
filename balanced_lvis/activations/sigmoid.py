"""K independent sigmoids, one class against the rest."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError
from .base import Activation, full_precision, register_activation


def sigmoid_loss(logits: Tensor, gt_classes: Tensor) -> Tensor:
    """
    Binary cross entropy of K one-versus-rest classifiers, summed over classes and averaged over RoIs.

    Args:
        logits: (R, K), without a background unit.
        gt_classes: (R,) int64 in 0..K; K, the background, is the row of all negatives.

    Returns:
        scalar: sum over all R*K entries / R.
    """
    if logits.shape[0] == 0:
        return logits.sum() * 0
    num_classes = logits.shape[1]
    target = F.one_hot(gt_classes, num_classes + 1)[:, :num_classes].to(logits.dtype)
    return F.binary_cross_entropy_with_logits(logits, target, reduction="sum") / logits.shape[0]


@register_activation("sigmoid")
class Sigmoid(Activation):
    """
    Plain sigmoid. The background unit is neither trained nor read: a background RoI is one whose K scores are low.

    Args:
        num_classes: K.
        prior: not used.
        prior_probability: the score that every class starts from, by the classifier's bias. Without it, the 1,203
            sigmoids of LVIS start at 0.5 and the first loss is about 834.
    """

    def __init__(self, num_classes, prior=None, *, prior_probability: float = 0.001):
        super().__init__(num_classes, prior)
        if not 0 < prior_probability < 1:
            raise InputError(f"prior_probability is {prior_probability}; it must lie between 0 and 1.")
        self.prior_probability = prior_probability

    def loss(self, logits, gt_classes):
        self._check(logits)
        return sigmoid_loss(full_precision(logits)[:, :-1], gt_classes)

    def scores(self, logits):
        self._check(logits)
        # The unused unit claims no probability; Detectron2's inference drops its column. The sigmoid is taken before
        # the cut because torch's result differs in the last bit on memory that is not contiguous.
        return F.pad(full_precision(logits).sigmoid()[:, :-1], (0, 1))

    def init_bias_(self, bias):
        nn.init.constant_(bias, -math.log((1 - self.prior_probability) / self.prior_probability))
