"""Equalization Loss (Tan et al., Equalization Loss for Long-Tailed Object Recognition, CVPR 2020)."""

from __future__ import annotations

import functools
import logging

import torch
from torch import Tensor

from ..priors import ClassPrior
from ..utils.errors import InputError
from .base import full_precision, register_activation
from .prior_module import PriorSource
from .sigmoid import Sigmoid, one_hot_targets, sigmoid_loss

logger = logging.getLogger(__name__)

GROUPS = "rcf"


def equalization_loss(logits: Tensor, gt_classes: Tensor, tail: Tensor, roi_weight: Tensor | None = None) -> Tensor:
    """
    Sigmoid loss in which foreground RoIs of other classes don't lower the scores of tail classes.

    Entry (r, j) has weight 1 - E(r) T_j (1 - y_rj): E is 1 on foreground RoIs, T is 1 for tail classes, y is 1 for the
    class of the RoI. So positives have weight 1, and background RoIs count as negatives of all classes.

    Args:
        logits: (R, K), without a background output.
        gt_classes: (R,) int64 in 0..K, K for background.
        tail: (K,) of any dtype, T: non-zero for tail classes.
        roi_weight: (R,) weight of each RoI's loss, 1 by default.

    Returns:
        scalar, as :func:`balanced_lvis.activations.sigmoid_loss`; the divisor is always R.
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
    Sigmoids in which tail classes have positives and background RoIs only: no negatives from other classes.

    Args:
        num_classes: K.
        prior: the training set's :class:`ClassPrior`.
        background: as in :class:`.base.Activation`.
        threshold: lambda, in (0, 1]: classes in less than this share of the training images are the tail. The paper
            uses 1.76e-3 on LVIS-0.5, later work 1.1e-3 on LVIS-1.0, where 1.00625e-3 selects exactly the rare and
            common classes. The released LVIS-1.0 config with repeat factor sampling also uses 1.1e-3.
        tail_groups: letters of LVIS's groups that are the tail, such as "rc" for rare and common. If given,
            ``threshold`` is ignored.
        prior_probability: as in :class:`Sigmoid`.

    Raises:
        InputError: for a threshold outside (0, 1] or an unknown group.
    """

    needs_prior = True
    _name = "equalization"  # in messages

    def __init__(
        self,
        num_classes: int,
        prior: PriorSource = None,
        background: bool = True,
        *,
        threshold: float = 0.0011,
        tail_groups: str = "",
        prior_probability: float = 0.001,
    ):
        super().__init__(num_classes, prior, background, prior_probability=prior_probability)
        self.threshold = check_threshold(threshold, self._name)
        self.tail_groups = check_tail_groups(tail_groups, self._name)

    @property
    def tail(self) -> Tensor:
        """(K,) bool: whether each class is in the tail."""
        return self.from_prior("tail", self._tail)

    def _tail(self, prior: ClassPrior) -> Tensor:
        return torch.as_tensor(tail_classes(prior, self.threshold, self.tail_groups))

    def loss(self, logits, gt_classes, roi_weight=None):
        self._check(logits, roi_weight)
        return equalization_loss(self.class_logits(full_precision(logits)), gt_classes, self.tail, roi_weight)


def check_threshold(threshold: float, owner: str) -> float:
    """
    Args:
        threshold: share of the training images below which a class is in the tail.
        owner: name of the activation, for the message.

    Returns:
        ``threshold``.

    Raises:
        InputError: if it is outside (0, 1].
    """
    if not 0 < threshold <= 1:
        raise InputError(
            f"threshold of {owner} is {threshold}; it must be a fraction of the training images, above 0 and at most 1."
        )
    return threshold


def check_tail_groups(tail_groups: str, owner: str) -> str:
    """
    Args:
        tail_groups: letters of LVIS's groups that are the tail.
        owner: name of the activation, for the message.

    Returns:
        ``tail_groups``.

    Raises:
        InputError: for an unknown group.
    """
    unknown = sorted(set(tail_groups) - set(GROUPS))
    if unknown:
        raise InputError(
            f"tail_groups of {owner} is {tail_groups!r}; {unknown[0]!r} is not one of the groups r (rare), c (common) "
            "and f (frequent)."
        )
    return tail_groups


def tail_classes(prior: ClassPrior, threshold: float, tail_groups: str = "") -> list[bool]:
    """
    Whether each of the K classes is in the tail. A warning is logged if none is.

    Args:
        prior: of the training set.
        threshold: classes in less than this share of the training images are the tail.
        tail_groups: letters of LVIS's groups that are the tail, instead of ``threshold``.
    """
    if tail_groups:
        tail = [group in tail_groups for group in prior.groups().tolist()]
        criterion = f"tail_groups {tail_groups!r}"
    else:
        tail = (prior.image_frequency() < threshold).tolist()
        criterion = f"threshold {threshold:g}, {threshold * prior.frequency_images:g} training images"
    if not any(tail):
        _report_no_tail(criterion)
    return tail


@functools.cache
def _report_no_tail(criterion: str) -> None:
    logger.warning(
        "Equalization has no effect: no class is in the tail (%s). Choose a higher threshold or another tail.",
        criterion,
    )
