"""Focal loss on a softmax (Lin et al., Focal Loss for Dense Object Detection, ICCV 2017)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..utils.errors import InputError
from .base import full_precision, register_activation
from .prior_module import PriorSource
from .softmax import Softmax


def focal_losses(logits: Tensor, gt_classes: Tensor, gamma: float) -> Tensor:
    """
    Focal loss of each RoI: -(1 - p)^gamma log p, with p the softmax probability of its class.

    log(1 - p) is computed from the other logits, so that gradients are finite for every gamma and p.

    Args:
        logits: (R, C).
        gt_classes: (R,) int64 in 0..C-1.
        gamma: focusing parameter, 0 for the cross entropy.

    Returns:
        (R,).
    """
    log_p = F.log_softmax(logits, dim=1)
    losses = -log_p.gather(1, gt_classes[:, None])[:, 0]
    if gamma == 0:
        return losses
    own = F.one_hot(gt_classes, logits.shape[1]).bool()
    # Half of the lowest number: still finite after a class's log probability is subtracted.
    log_others = log_p.masked_fill(own, torch.finfo(log_p.dtype).min / 2).logsumexp(dim=1)
    return (gamma * log_others).exp() * losses


def check_gamma(gamma: float, owner: str) -> float:
    """
    Args:
        gamma: focusing parameter.
        owner: name of the activation, for the message.

    Returns:
        ``gamma``.

    Raises:
        InputError: if it is negative or not finite.
    """
    if not 0 <= gamma < math.inf:
        raise InputError(f"gamma of {owner} is {gamma}; it must be 0 or more; 0 is the cross entropy.")
    return gamma


@register_activation("focal")
class Focal(Softmax):
    """
    Softmax whose loss is weighted by (1 - p)^gamma: RoIs that are classified well count less.

    The paper has sigmoids, see :class:`~balanced_lvis.activations.SigmoidFocal`. This is the form that comparisons on
    long-tailed classification use, such as the code of LDAM-DRW, with gamma = 1. It doesn't depend on class counts.

    Args:
        num_classes: K.
        prior: not used.
        background: as in :class:`.base.Activation`.
        gamma: focusing parameter; 0 gives the cross entropy.

    Raises:
        InputError: for a negative ``gamma``.
    """

    neutral_at_uniform_counts = False  # the factor (1 - p)^gamma stays

    def __init__(self, num_classes: int, prior: PriorSource = None, background: bool = True, *, gamma: float = 1.0):
        super().__init__(num_classes, prior, background)
        self.gamma = check_gamma(gamma, "focal")

    def loss(self, logits, gt_classes, roi_weight=None):
        self._check(logits, roi_weight)
        if not len(logits):
            return full_precision(logits).sum() * 0
        losses = focal_losses(full_precision(logits), gt_classes, self.gamma)
        return (losses if roi_weight is None else losses * roi_weight.to(losses.dtype)).mean()
