"""Adaptive Class Suppression Loss (Wang et al., CVPR 2021)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..priors import ClassPrior
from ..utils.errors import InputError
from .base import full_precision, register_activation
from .prior_module import PriorSource
from .sigmoid import Sigmoid, one_hot_targets, sigmoid_loss
from .tail import GROUPS


@register_activation("acsl")
class AdaptiveClassSuppression(Sigmoid):
    """
    Sigmoids in which a foreground RoI is a negative of those other classes only that it has high scores for.

    On foreground RoIs, the negative of class j counts where sigmoid(z_j) >= ``threshold``. Of the background RoIs of a
    batch, all are negatives of frequent classes, and a random ``common_share`` and ``rare_share`` of them, rounded
    down, of common and of rare ones. Positives always count.

    Each process draws its own RoIs, from torch's random generator of the logits' device. The authors' code has a
    sigmoid of the background too, which the scores don't read: it has no effect on those of the classes.

    Args:
        num_classes: K.
        prior: the training set's :class:`ClassPrior`, for the groups of the classes.
        background: as in :class:`.base.Activation`.
        threshold: least score at which a foreground RoI of another class counts, in (0, 1).
        common_share: of the background RoIs, in [0, 1].
        rare_share: of the background RoIs, in [0, 1].
        prior_probability: as in :class:`Sigmoid`; 0.01 in the authors' code.

    Raises:
        InputError: for an invalid option.
    """

    needs_prior = True
    deterministic = False
    neutral_at_uniform_counts = False  # negatives are left out by score, not by count

    def __init__(
        self,
        num_classes: int,
        prior: PriorSource = None,
        background: bool = True,
        *,
        threshold: float = 0.7,
        common_share: float = 0.1,
        rare_share: float = 0.01,
        prior_probability: float = 0.01,
    ):
        super().__init__(num_classes, prior, background, prior_probability=prior_probability)
        if not 0 < threshold < 1:
            raise InputError(f"threshold of acsl is {threshold}; it must be a score between 0 and 1, such as 0.7.")
        for name, share in (("common_share", common_share), ("rare_share", rare_share)):
            if not 0 <= share <= 1:
                raise InputError(f"{name} of acsl is {share}; it must be a fraction, between 0 and 1.")
        self.threshold = threshold
        self.shares = {"r": rare_share, "c": common_share, "f": 1.0}

    @property
    def group(self) -> Tensor:
        """(K,) int64: 0 for rare classes, 1 for common and 2 for frequent ones."""
        return self.from_prior("group", self._group)

    def _group(self, prior: ClassPrior) -> Tensor:
        return torch.tensor([GROUPS.index(group) for group in prior.groups().tolist()])

    def loss(self, logits, gt_classes, roi_weight=None):
        self._check(logits, roi_weight)
        logits = self.class_logits(full_precision(logits))
        weight = self._counts(logits, gt_classes).to(logits.dtype)
        if roi_weight is not None:
            weight = weight * roi_weight.to(logits.dtype)[:, None]
        return sigmoid_loss(logits, gt_classes, weight)

    def _counts(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        """(R, K) bool: which entries have a loss."""
        is_background = gt_classes == self.num_classes
        drawn = torch.stack([_random_subset(is_background, self.shares[group]) for group in GROUPS], dim=1)
        on_foreground = (logits.detach().sigmoid() >= self.threshold) | (one_hot_targets(logits, gt_classes) != 0)
        return torch.where(is_background[:, None], drawn[:, self.group], on_foreground)


def _random_subset(candidates: Tensor, share: float) -> Tensor:
    """(R,) bool: a random share of the candidates (R,) bool, rounded down. A GPU needn't be waited for."""
    keys = torch.rand(len(candidates), device=candidates.device).masked_fill(~candidates, 2.0)
    rank = keys.argsort().argsort()
    return rank < (candidates.sum().double() * share).floor()
