"""DropLoss (Hsieh et al., DropLoss for Long-Tail Instance Segmentation, AAAI 2021)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import full_precision, register_activation
from .equalization import Equalization
from .sigmoid import sigmoid_loss, without_negatives


def tail_share(gt_classes: Tensor, tail: Tensor) -> Tensor:
    """
    rho: the share of the foreground RoIs whose class is in the tail.

    Args:
        gt_classes: (R,) int64 in 0..K, K for background.
        tail: (K,) bool.

    Returns:
        scalar. 1 without foreground RoIs, so that no negative is dropped: the released code computes 0 / 0 there, whose
        comparison with a random number is false, which drops none either.
    """
    foreground = (gt_classes < len(tail)).sum()
    in_tail = F.pad(tail.float(), (0, 1))[gt_classes].sum()
    return torch.where(foreground > 0, in_tail / foreground.clamp(min=1), torch.ones_like(in_tail))


def drop_loss_weights(logits: Tensor, gt_classes: Tensor, tail: Tensor, noise: Tensor) -> Tensor:
    """
    (R, K) weights of the entries' losses, 0 or 1, of ``logits``' dtype.

    Positives and all entries of classes outside of the tail have weight 1. Negatives of tail classes have weight 0 on
    foreground RoIs, as in Equalization Loss, and on background RoIs with probability 1 - rho, rho from
    :func:`tail_share`.

    Args:
        logits: (R, K), for their dtype and shape.
        gt_classes: (R,) int64 in 0..K, K for background.
        tail: (K,) bool.
        noise: (R, K) random numbers, uniform in [0, 1).
    """
    foreground = gt_classes < logits.shape[1]
    dropped = foreground[:, None] | (noise >= tail_share(gt_classes, tail))
    return without_negatives(logits, gt_classes, dropped & tail)


def random_drop_weights(logits: Tensor, gt_classes: Tensor, tail: Tensor, roi_weight: Tensor | None = None) -> Tensor:
    """
    :func:`drop_loss_weights` with noise from torch's random generator of the logits' device, times ``roi_weight``.

    Args:
        logits, gt_classes, tail: as there.
        roi_weight: (R,) weight of each RoI's loss, 1 by default.
    """
    weight = drop_loss_weights(logits, gt_classes, tail, torch.rand(logits.shape, device=logits.device))
    return weight if roi_weight is None else weight * roi_weight[:, None]


@register_activation("drop_loss")
class DropLoss(Equalization):
    """
    Equalization Loss that also drops negatives of tail classes on background RoIs, at random.

    Each of these negatives is dropped with probability 1 - rho, where rho is the share of the batch's foreground RoIs
    whose class is in the tail. Tail classes thus have about as many negatives from background as they have a share in
    the foreground. Without foreground RoIs, rho is 1 and nothing is dropped.

    Random numbers are drawn for each RoI and class from torch's random generator of the logits' device.

    Args:
        num_classes: K.
        prior: the training set's :class:`~balanced_lvis.priors.ClassPrior`.
        background: as in :class:`.base.Activation`.
        threshold: lambda, as in :class:`Equalization`. The paper's tail consists of the rare and common classes, which
            1.00625e-3 selects on LVIS-1.0. The released yaml for LVIS-1.0 has LVIS-0.5's 1.77e-3.
        tail_groups: as in :class:`Equalization`.
        prior_probability: as in :class:`~balanced_lvis.activations.Sigmoid`.

    Raises:
        InputError: for a threshold outside (0, 1] or an unknown group.
    """

    deterministic = False
    _name = "drop_loss"

    def loss(self, logits, gt_classes, roi_weight=None):
        self._check(logits, roi_weight)
        logits = self.class_logits(full_precision(logits))
        return sigmoid_loss(logits, gt_classes, random_drop_weights(logits, gt_classes, self.tail, roi_weight))
