"""Equalization Loss v2 (Tan et al., A New Gradient Balance Approach for Long-tailed Object Detection, CVPR 2021)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..utils.errors import InputError
from .base import full_precision, register_activation
from .prior_module import PriorSource
from .sigmoid import one_hot_targets, sigmoid_loss
from .sigmoid_background import SigmoidBackground

_INITIAL_RATIO = 100.0  # as in the authors' code: all weights are 1


@register_activation("equalization_v2")
class EqualizationV2(SigmoidBackground):
    """
    Sigmoids in which the positives and the negatives of a class are weighted by the gradients that it has had so far.

    g_j is the sum of the gradients of class j's positives divided by that of its negatives, over all updates and all
    processes. Negatives of the class have weight f(g_j) = sigmoid(gamma (g_j - mu)), positives 1 + alpha (1 - f(g_j)).
    A rare class has a small ratio, so its few positives count more and its many negatives less. The background's
    sigmoid is not weighted.

    A gradient is that of an entry's weighted binary cross entropy by its logit, w |p - y|, without the divisor R and
    without RoI weights. A class without gradients has the ratio 100, and so weights of 1. One that has had negatives
    but no positives has the ratio 0, and nearly no negatives: it is not suppressed before it is first seen.

    Args:
        num_classes: K.
        prior: not used.
        background: as in :class:`.base.Activation`.
        gamma: steepness of f, positive.
        mu: ratio at which negatives have weight 1/2.
        alpha: largest additional weight of positives, 0 or more.
        prior_probability: as in :class:`SigmoidBackground`. In the authors' code all logits start at 0, which is 0.5.

    Raises:
        InputError: for an invalid option.
    """

    def __init__(
        self,
        num_classes: int,
        prior: PriorSource = None,
        background: bool = True,
        *,
        gamma: float = 12.0,
        mu: float = 0.8,
        alpha: float = 4.0,
        prior_probability: float = 0.001,
    ):
        super().__init__(num_classes, prior, background, prior_probability=prior_probability)
        if not 0 < gamma < math.inf:
            raise InputError(f"gamma of equalization_v2 is {gamma}; it must be positive, such as 12.")
        if not math.isfinite(mu):
            raise InputError(f"mu of equalization_v2 is {mu}; it must be a finite number, such as 0.8.")
        if not 0 <= alpha < math.inf:
            raise InputError(f"alpha of equalization_v2 is {alpha}; it must be 0 or more, such as 4.")
        self.gamma, self.mu, self.alpha = gamma, mu, alpha
        self.positive_gradient: Tensor
        self.negative_gradient: Tensor
        for name in ("positive_gradient", "negative_gradient"):
            # float64, as hundreds of thousands of updates add up.
            self.add_state(name, torch.zeros(num_classes, dtype=torch.float64))

    @property
    def gradient_ratio(self) -> Tensor:
        """(K,) float64: g, the gradients of positives divided by those of negatives so far."""
        positive, negative = self.positive_gradient, self.negative_gradient
        tiny = torch.finfo(negative.dtype).tiny
        return torch.where(negative > 0, positive / negative.clamp(min=tiny), _INITIAL_RATIO)

    def entry_weights(self, target: Tensor) -> Tensor:
        """
        Args:
            target: (R, C), 1 for positives and 0 for negatives.

        Returns:
            (R, C) weights of the entries' losses, of ``target``'s dtype.
        """
        of_negatives = (self.gamma * (self.gradient_ratio - self.mu)).sigmoid()
        of_negatives = F.pad(of_negatives, (0, int(self.background)), value=1.0).to(target.dtype)
        of_positives = 1 + self.alpha * (1 - of_negatives)
        return target * of_positives + (1 - target) * of_negatives

    def loss(self, logits, gt_classes, roi_weight=None):
        self._check(logits, roi_weight)
        logits = full_precision(logits)
        weight = self.entry_weights(one_hot_targets(logits, gt_classes))
        if roi_weight is not None:
            weight = weight * roi_weight.to(weight.dtype)[:, None]
        return sigmoid_loss(logits, gt_classes, weight)

    def observe(self, logits, gt_classes):
        logits = full_precision(logits)
        target = one_hot_targets(logits, gt_classes)
        gradient = (logits.sigmoid() - target).abs() * self.entry_weights(target)
        self.positive_gradient += self.class_logits(gradient * target).sum(0)
        self.negative_gradient += self.class_logits(gradient * (1 - target)).sum(0)
