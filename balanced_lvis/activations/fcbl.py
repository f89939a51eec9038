"""Foreground classification balance loss (Qi et al., Balanced Classification, IEEE TMM 2023)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..utils.errors import InputError
from .base import full_precision, register_activation
from .prior_module import PriorSource
from .sigmoid import sigmoid_loss
from .sigmoid_background import SigmoidBackground


@register_activation("fcbl")
class ForegroundBalance(SigmoidBackground):
    """
    Sigmoids with a margin for each pair of classes, which follows from the confusion matrix so far: the loss of BACL.

    CM_ij is the mean probability of class j, by a softmax of the class logits, on RoIs of class i. On a RoI of class y,
    ``alpha`` log(CM_yj / CM_jy) is added to the logit of class j: the negative of class j counts more where y is taken
    for j more often than the reverse, and less otherwise, as is usual for a rare j. Of the negatives of a foreground
    RoI, only those count whose score is at least that of y, or at least ``threshold``. Background RoIs and the sigmoid
    of the background have neither margins nor weights.

    The matrix sums up all updates and processes, as in the authors' code; it has K x K numbers, 11.6 MB for LVIS's
    1,203 classes. BACL also generates features (feature hallucination), which this does not.

    Args:
        num_classes: K.
        prior: not used.
        background: as in :class:`.base.Activation`.
        alpha: factor of the margins, 0 or more; 0.85 in the authors' configs for LVIS.
        threshold: score at which a negative counts in any case, in (0, 1).
        least_rate: lower bound of CM, in (0, 1).
        prior_probability: as in :class:`SigmoidBackground`.

    Raises:
        InputError: for an invalid option.
    """

    neutral_at_uniform_counts = False  # negatives are left out by score

    def __init__(
        self,
        num_classes: int,
        prior: PriorSource = None,
        background: bool = True,
        *,
        alpha: float = 0.85,
        threshold: float = 0.7,
        least_rate: float = 1e-3,
        prior_probability: float = 0.001,
    ):
        super().__init__(num_classes, prior, background, prior_probability=prior_probability)
        if not 0 <= alpha < math.inf:
            raise InputError(f"alpha of fcbl is {alpha}; it must be 0 (no margins) or more, such as 0.85.")
        for name, value in (("threshold", threshold), ("least_rate", least_rate)):
            if not 0 < value < 1:
                raise InputError(f"{name} of fcbl is {value}; it must lie between 0 and 1.")
        self.alpha, self.threshold, self.least_rate = alpha, threshold, least_rate
        self.confusion: Tensor
        self.seen: Tensor
        self.add_state("confusion", torch.zeros(num_classes, num_classes, dtype=torch.float64))
        self.add_state("seen", torch.zeros(num_classes, dtype=torch.int64))

    @property
    def margins(self) -> Tensor:
        """(K, K) float64: what is added to the logit of class j on RoIs of class y, in row y and column j."""
        rate = (self.confusion / self.seen.clamp(min=1)[:, None]).clamp(min=self.least_rate)
        return self.alpha * (rate / rate.T).log()

    def loss(self, logits, gt_classes, roi_weight=None):
        self._check(logits, roi_weight)
        logits = full_precision(logits)
        is_foreground = (gt_classes < self.num_classes)[:, None]
        own = gt_classes.clamp(max=self.num_classes - 1)  # of a background RoI, any class, whose values aren't used
        margin = self.margins.to(logits.dtype)[own] * is_foreground
        counts = self._counts(logits.detach(), own) | ~is_foreground
        beyond = (0, int(self.background))
        weight = F.pad(counts.to(logits.dtype), beyond, value=1.0)
        if roi_weight is not None:
            weight = weight * roi_weight.to(logits.dtype)[:, None]
        return sigmoid_loss(logits + F.pad(margin, beyond), gt_classes, weight)

    def _counts(self, logits: Tensor, own: Tensor) -> Tensor:
        """(R, K) bool: which entries of foreground RoIs have a loss."""
        scores = self.class_logits(self.scores(logits))
        return (scores >= scores.gather(1, own[:, None])) | (scores >= self.threshold)

    def observe(self, logits, gt_classes):
        is_class = F.one_hot(gt_classes, self.num_classes + 1)[:, : self.num_classes]
        probabilities = self.class_logits(full_precision(logits)).softmax(1)
        self.confusion += is_class.to(probabilities.dtype).T @ probabilities
        self.seen += is_class.sum(0)
