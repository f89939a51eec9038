"""Focal loss on K sigmoids (Lin et al., Focal Loss for Dense Object Detection, ICCV 2017)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..utils.errors import InputError
from .base import full_precision, register_activation
from .focal import check_gamma
from .prior_module import PriorSource
from .sigmoid import Sigmoid, one_hot_targets, weight_rows

DIVISORS = ("rois", "positives")


def sigmoid_focal_loss(
    logits: Tensor,
    gt_classes: Tensor,
    gamma: float,
    alpha: float,
    weight: Tensor | None = None,
    *,
    divisor: str = "rois",
) -> Tensor:
    """
    Focal loss of K one-versus-rest classifiers, summed over classes, and over RoIs divided by their number.

    Of an entry with target t in {0, 1}: -alpha_t (1 - p_t)^gamma log p_t. Computed with log-sigmoids, so that
    gradients are finite for every gamma, unlike those of ``torchvision.ops.sigmoid_focal_loss`` below 1.

    Args:
        logits: (R, K), without a background output.
        gt_classes: (R,) int64 in 0..K, K for background.
        gamma: focusing parameter; 0 for the binary cross entropy.
        alpha: weight of positives, with 1 - alpha for negatives; -1 for no such weights.
        weight: broadcastable to (R, K), as in :func:`balanced_lvis.activations.sigmoid_loss`.
        divisor: "rois" divides by R, "positives" by the number of foreground RoIs, at least 1.

    Returns:
        scalar.
    """
    if logits.shape[0] == 0:
        return logits.sum() * 0
    target = one_hot_targets(logits, gt_classes)
    signed = logits * (2 * target - 1)  # p_t is its sigmoid
    losses = (gamma * F.logsigmoid(-signed)).exp() * -F.logsigmoid(signed)
    if alpha >= 0:
        losses = losses * (alpha * target + (1 - alpha) * (1 - target))
    if weight is not None:
        losses = losses * weight.to(losses.dtype)
    if divisor == "positives":
        return losses.sum() / target.sum().clamp(min=1)
    return losses.sum() / logits.shape[0]


@register_activation("sigmoid_focal")
class SigmoidFocal(Sigmoid):
    """
    Sigmoids whose binary cross entropies are weighted by alpha_t (1 - p_t)^gamma.

    p_t is the probability of an entry's target: p for the class of the RoI, 1 - p for the others. The loss is summed
    over classes and averaged over RoIs, as that of the other activations. RetinaNet divides by the number of positives,
    so its loss is larger: about seven times in a two-stage detector on LVIS.

    Args:
        num_classes: K.
        prior: not used.
        background: as in :class:`.base.Activation`.
        gamma: focusing parameter; 0 gives the binary cross entropy.
        alpha: weight of positives in [0, 1], with 1 - alpha for negatives; -1 for no such weights.
        divisor: "rois" divides by R; "positives" by the number of foreground RoIs of the batch, as RetinaNet.
        prior_probability: as in :class:`Sigmoid`.

    Raises:
        InputError: for another ``gamma``, ``alpha`` or ``divisor``.
    """

    neutral_at_uniform_counts = False  # the factor (1 - p_t)^gamma stays

    def __init__(
        self,
        num_classes: int,
        prior: PriorSource = None,
        background: bool = True,
        *,
        gamma: float = 2.0,
        alpha: float = 0.25,
        divisor: str = "rois",
        prior_probability: float = 0.001,
    ):
        super().__init__(num_classes, prior, background, prior_probability=prior_probability)
        if alpha != -1 and not 0 <= alpha <= 1:
            raise InputError(f"alpha of sigmoid_focal is {alpha}; it must be between 0 and 1, or -1 for no weights.")
        if divisor not in DIVISORS:
            raise InputError(f"divisor of sigmoid_focal is {divisor!r}; valid: {', '.join(DIVISORS)}.")
        self.gamma, self.alpha, self.divisor = check_gamma(gamma, "sigmoid_focal"), alpha, divisor

    def loss(self, logits, gt_classes, roi_weight=None):
        self._check(logits, roi_weight)
        logits = self.class_logits(full_precision(logits))
        return sigmoid_focal_loss(
            logits, gt_classes, self.gamma, self.alpha, weight_rows(roi_weight), divisor=self.divisor
        )
