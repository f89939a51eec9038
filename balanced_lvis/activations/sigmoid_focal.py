"""Focal loss on K sigmoids (Lin et al., Focal Loss for Dense Object Detection, ICCV 2017)."""

from __future__ import annotations

import math

from torchvision.ops import sigmoid_focal_loss

from ..utils.errors import InputError
from .base import full_precision, register_activation
from .prior_module import PriorSource
from .sigmoid import Sigmoid, one_hot_targets


@register_activation("sigmoid_focal")
class SigmoidFocal(Sigmoid):
    """
    Sigmoids whose binary cross entropies are weighted by alpha_t (1 - p_t)^gamma.

    p_t is the probability of an entry's target: p for the class of the RoI, 1 - p for the others. The loss is summed
    over classes and averaged over RoIs, as that of the other activations; RetinaNet divides by the number of positives.

    Args:
        num_classes: K.
        prior: not used.
        background: as in :class:`.base.Activation`.
        gamma: focusing parameter, 0 or at least 1; 0 gives the binary cross entropy.
        alpha: weight of positives in [0, 1], with 1 - alpha for negatives; -1 for no such weights.
        prior_probability: as in :class:`Sigmoid`.

    Raises:
        InputError: for another ``gamma`` or ``alpha``.
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
        prior_probability: float = 0.001,
    ):
        super().__init__(num_classes, prior, background, prior_probability=prior_probability)
        if gamma != 0 and not 1 <= gamma < math.inf:  # below 1, the derivative at p_t = 1 is not finite
            raise InputError(f"gamma of sigmoid_focal is {gamma}; it must be 0 (binary cross entropy) or at least 1.")
        if alpha != -1 and not 0 <= alpha <= 1:
            raise InputError(f"alpha of sigmoid_focal is {alpha}; it must be between 0 and 1, or -1 for no weights.")
        self.gamma, self.alpha = gamma, alpha

    def loss(self, logits, gt_classes, roi_weight=None):
        self._check(logits, roi_weight)
        logits = self.class_logits(full_precision(logits))
        if not len(logits):
            return logits.sum() * 0
        losses = sigmoid_focal_loss(logits, one_hot_targets(logits, gt_classes), alpha=self.alpha, gamma=self.gamma)
        if roi_weight is not None:
            losses = losses * roi_weight.to(losses.dtype)[:, None]
        return losses.sum() / len(losses)
