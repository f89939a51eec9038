"""Equilibrium Loss (Feng et al., Exploring Classification Equilibrium in Long-Tailed Object Detection, ICCV 2021)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..utils.errors import InputError
from .base import full_precision, register_activation
from .prior_module import PriorSource
from .softmax import Softmax, softmax_loss

_LEAST_SCORE = 1e-12  # a mean score of 0 would have no logarithm


@register_activation("equilibrium")
class Equilibrium(Softmax):
    """
    Softmax over ``logits + log m_j`` in training and over the raw logits at test time, the loss of LOCE.

    m_j is the mean score that RoIs of class j have for it, so a class that is recognized less than another gets a
    margin, however many samples it has. It is a moving average over updates: m_j is replaced by ``decay`` m_j +
    (1 - ``decay``) s_j in each update in which any process has RoIs of class j, where s_j is the mean of their scores.
    In the authors' code, each object of a batch is a step of the average, and the current batch is included.

    LOCE also draws features of past objects (memory-augmented feature sampling), which this does not.

    Args:
        num_classes: K.
        prior: not used.
        background: as in :class:`.base.Activation`.
        decay: of the moving average, in [0, 1).
        background_score: m of the background, and of each class before it is seen, in (0, 1].

    Raises:
        InputError: for an invalid option.
    """

    has_margins = True

    def __init__(
        self,
        num_classes: int,
        prior: PriorSource = None,
        background: bool = True,
        *,
        decay: float = 0.9,
        background_score: float = 0.01,
    ):
        super().__init__(num_classes, prior, background)
        if not 0 <= decay < 1:
            raise InputError(f"decay of equilibrium is {decay}; it must be 0 (no average) or more and below 1.")
        if not 0 < background_score <= 1:
            raise InputError(f"background_score of equilibrium is {background_score}; it must be a score above 0.")
        self.decay, self.background_score = decay, background_score
        self.average: Tensor
        self.totals: Tensor
        self.averaged: Tensor
        # The mean of an update needs the scores of all processes, which are summed after observe(). So the average
        # lacks the last update, whose scores are those of the totals that are not yet averaged.
        self.add_state("average", torch.full((num_classes,), background_score, dtype=torch.float64), reduce="mean")
        self.add_state("totals", torch.zeros(2, num_classes, dtype=torch.float64))  # sums of scores, and RoIs
        self.add_state("averaged", torch.zeros(2, num_classes, dtype=torch.float64), reduce="mean")

    @property
    def mean_score(self) -> Tensor:
        """(K,) float64: m."""
        score_sum, rois = self.totals - self.averaged
        updated = self.decay * self.average + (1 - self.decay) * score_sum / rois.clamp(min=1)
        return torch.where(rois > 0, updated, self.average)

    def loss(self, logits, gt_classes, roi_weight=None):
        self._check(logits, roi_weight)
        logits = full_precision(logits)
        mean_score = F.pad(self.mean_score, (0, int(self.background)), value=self.background_score)
        margin = mean_score.clamp(min=_LEAST_SCORE).log().to(logits.dtype)
        return softmax_loss(logits + margin, gt_classes, roi_weight)

    def observe(self, logits, gt_classes):
        self.average.copy_(self.mean_score)
        self.averaged.copy_(self.totals)
        is_class = F.one_hot(gt_classes, self.num_classes + 1)[:, : self.num_classes]
        scores = self.class_logits(full_precision(logits).softmax(1))
        self.totals += torch.stack([(scores * is_class).sum(0), is_class.sum(0)])
