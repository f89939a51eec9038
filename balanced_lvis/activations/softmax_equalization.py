"""Softmax Equalization Loss (Tan et al., Equalization Loss for Long-Tailed Object Recognition, CVPR 2020)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..utils.errors import InputError
from .base import full_precision, register_activation
from .prior_module import PriorSource
from .sigmoid import one_hot_targets
from .softmax import Softmax, softmax_loss
from .tail import TailClasses

_IGNORED = -1e9  # a logit with probability 0; minus infinity times a RoI's weight of 0 would not be a number


def softmax_equalization_loss(
    logits: Tensor, gt_classes: Tensor, ignored: Tensor, roi_weight: Tensor | None = None
) -> Tensor:
    """
    Cross entropy of a softmax whose denominators leave out some classes.

    p_y = exp(z_y) / sum_k w_k exp(z_k), with w_k = 0 for ignored classes other than the RoI's, else 1. So foreground
    RoIs of other classes don't lower the logits of ignored ones. As in the sigmoid form, background RoIs have all
    classes as negatives.

    Args:
        logits: (R, C).
        gt_classes: (R,) int64 in 0..C-1.
        ignored: (R, K) bool. Further outputs, such as the background, are never ignored.
        roi_weight: (R,), as in :func:`balanced_lvis.activations.softmax_loss`.

    Returns:
        scalar, averaged over RoIs.
    """
    num_classes = ignored.shape[1]
    other = one_hot_targets(logits[:, :num_classes], gt_classes) == 0
    left_out = ignored & other & (gt_classes < num_classes)[:, None]
    left_out = F.pad(left_out, (0, logits.shape[1] - num_classes))
    return softmax_loss(logits.masked_fill(left_out, _IGNORED), gt_classes, roi_weight)


@register_activation("softmax_equalization")
class SoftmaxEqualization(TailClasses, Softmax):
    """
    Softmax in which tail classes are left out of the denominators of other classes' RoIs, at random.

    The denominators have the weights w_k = 1 - beta T(f_k) (1 - y_k): T is 1 for tail classes, y is 1 for the class of
    the RoI, and beta is 1 with probability gamma, else 0. With gamma = 1, tail classes have no negatives at all in
    image classification, which has no background.

    beta is drawn for each RoI and class from torch's random generator of the logits' device, so that runs are
    reproducible. Some implementations draw it once per batch.

    Args:
        num_classes: K.
        prior: the training set's :class:`~balanced_lvis.priors.ClassPrior`.
        background: as in :class:`.base.Activation`. Background RoIs have all classes as negatives.
        threshold: lambda, in (0, 1]: classes in less than this share of the training images are the tail.
        gamma: probability in [0, 1] that a tail class is left out; 0 gives the plain softmax.

    Raises:
        InputError: for an invalid option.
    """

    deterministic = False
    _name = "softmax_equalization"
    # neutral_at_uniform_counts holds for up to 1 / threshold classes, 200 by default; with more, all are in the tail.

    def __init__(
        self,
        num_classes: int,
        prior: PriorSource = None,
        background: bool = True,
        *,
        threshold: float = 0.005,
        gamma: float = 0.9,
    ):
        super().__init__(num_classes, prior, background)
        if not 0 <= gamma <= 1:
            raise InputError(f"gamma of softmax_equalization is {gamma}; it must be a probability, between 0 and 1.")
        self.set_tail(threshold)
        self.gamma = gamma

    def loss(self, logits, gt_classes, roi_weight=None):
        self._check(logits, roi_weight)
        beta = torch.rand(len(logits), self.num_classes, device=logits.device) < self.gamma
        return softmax_equalization_loss(full_precision(logits), gt_classes, beta & self.tail, roi_weight)
