"""Equalization Loss (Tan et al., Equalization Loss for Long-Tailed Object Recognition, CVPR 2020)."""

from __future__ import annotations

import functools
import logging

import torch
from torch import Tensor

from ..priors import ClassPrior
from ..utils.errors import InputError
from .base import full_precision, register_activation
from .sigmoid import Sigmoid, one_hot_targets, sigmoid_loss

logger = logging.getLogger(__name__)

GROUPS = "rcf"


def equalization_loss(logits: Tensor, gt_classes: Tensor, tail: Tensor, roi_weight: Tensor | None = None) -> Tensor:
    """
    Sigmoid loss in which foreground RoIs of other classes don't push the scores of tail classes down.

    Entry (r, j) has weight 1 - E(r) T_j (1 - y_rj): E is 1 on foreground RoIs, T is 1 for tail classes, y is 1 at a
    RoI's own class. So positives keep weight 1, and background RoIs keep all their negatives.

    Args:
        logits: (R, K), without a background unit.
        gt_classes: (R,) int64 in 0..K, K for background.
        tail: (K,) of any dtype, T: non-zero for tail classes.
        roi_weight: (R,) weight of each RoI's loss, 1 unless given.

    Returns:
        scalar, as :func:`balanced_lvis.activations.sigmoid_loss`: the divisor is R whatever the weights.
    """
    foreground = (gt_classes < logits.shape[1]).to(logits.dtype)
    ignored = foreground[:, None] * (tail != 0).to(logits.dtype) * (1 - one_hot_targets(logits, gt_classes))
    weight = 1 - ignored
    if roi_weight is not None:
        weight = weight * roi_weight.to(logits.dtype)[:, None]
    return sigmoid_loss(logits, gt_classes, weight)


@register_activation("equalization")
class Equalization(Sigmoid):
    """
    Sigmoids that tail classes train on their own RoIs and on the background only.

    Args:
        num_classes: K.
        prior: the training set's :class:`ClassPrior`.
        threshold: lambda, in (0, 1]: classes in less than this share of the training images are the tail. The paper
            has 1.76e-3 on LVIS-0.5, later work 1.1e-3 on LVIS-1.0, where 1.00625e-3 is exactly the rare and common
            classes. The released LVIS-1.0 config with repeat factor sampling has 1.1e-3, too.
        tail_groups: letters of LVIS's groups, "rc" for rare and common: these are the tail instead, whatever the
            threshold. Empty for the threshold.
        prior_probability: as in :class:`Sigmoid`.

    Raises:
        InputError: for a threshold outside (0, 1] or an unknown group.
    """

    needs_prior = True

    def __init__(
        self, num_classes, prior=None, *, threshold: float = 0.0011, tail_groups: str = "", prior_probability=0.001
    ):
        super().__init__(num_classes, prior, prior_probability=prior_probability)
        if not 0 < threshold <= 1:
            raise InputError(
                f"threshold of equalization is {threshold}; it is a share of the training images, above 0 and up to 1."
            )
        unknown = sorted(set(tail_groups) - set(GROUPS))
        if unknown:
            raise InputError(
                f"tail_groups of equalization is {tail_groups!r}; {unknown[0]!r} is none of the groups r (rare), "
                "c (common) and f (frequent)."
            )
        # Not persistent: it follows from the configuration, and stock checkpoints have no such entry.
        self.tail: Tensor
        self.register_buffer("tail", torch.as_tensor(_tail(prior, threshold, tail_groups)), persistent=False)

    def loss(self, logits, gt_classes, roi_weight=None):
        self._check(logits, roi_weight)
        return equalization_loss(full_precision(logits)[:, :-1], gt_classes, self.tail, roi_weight)


def _tail(prior: ClassPrior, threshold: float, tail_groups: str):
    """(K,) bool."""
    if tail_groups:
        tail = [group in tail_groups for group in prior.groups().tolist()]
        criterion = f"tail_groups {tail_groups!r}"
    else:
        tail = (prior.image_frequency() < threshold).tolist()
        criterion = f"threshold {threshold:g}, which is {threshold * prior.frequency_images:g} training images"
    if not any(tail):
        _report_no_tail(criterion)
    return tail


@functools.cache
def _report_no_tail(criterion: str) -> None:
    logger.warning("Equalization loss is the plain sigmoid loss here: no class is in the tail by %s.", criterion)
