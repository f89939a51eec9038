"""Gumbel activation (Alexandridis et al., Long-tailed Instance Segmentation using Gumbel Optimized Loss, ECCV 2022)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..utils.errors import InputError
from .base import Activation, full_precision, register_activation
from .prior_module import PriorSource
from .sigmoid import one_hot_targets, weight_rows

# Training logits are clamped to this range, as in the authors' code. Outside, the gradient is 0.
LOWEST, HIGHEST = -4.0, 10.0
_LOWEST_FINITE = -80.0  # exp(80) is finite in float32
_EXACT = 50.0  # above, logits and log-odds are equal in float64


def gumbel_loss(logits: Tensor, gt_classes: Tensor, weight: Tensor | None = None) -> Tensor:
    """
    Binary cross entropy of p = exp(-exp(-logit)), summed over classes and averaged over RoIs.

    Logits are clamped to [-4, 10]. With u = exp(-logit), log p = -u and log(1 - p) = log(1 - exp(-u)), which is
    computed without cancellation for small and large u.

    Args:
        logits: (R, K), without a background output.
        gt_classes: (R,) int64 in 0..K, K for background.
        weight: broadcastable to (R, K), as in :func:`balanced_lvis.activations.sigmoid_loss`.

    Returns:
        scalar: (weighted) sum over all R*K entries / R.
    """
    if logits.shape[0] == 0:
        return logits.sum() * 0
    u = (-logits.clamp(LOWEST, HIGHEST)).exp()
    log_rest = torch.where(u < math.log(2), (-torch.expm1(-u)).log(), torch.log1p(-(-u).exp()))
    losses = torch.where(one_hot_targets(logits, gt_classes) > 0, u, -log_rest)
    if weight is not None:
        losses = losses * weight.to(losses.dtype)
    return losses.sum() / logits.shape[0]


def log_odds_of_gumbel(logits: Tensor) -> Tensor:
    """
    log(p / (1 - p)) of p = exp(-exp(-logit)), which is -log(expm1(exp(-logit))).

    It approaches the logit for high logits, and -exp(-logit) for low ones. Logits below -80, where that would overflow,
    have the log-odds of -80.

    Args:
        logits: of any shape, float32 or float64.
    """
    small = (-logits.clamp(0, _EXACT)).exp()
    large = (-logits.clamp(_LOWEST_FINITE, 0)).exp()
    low = -large - torch.log1p(-(-large).exp())
    return torch.where(logits > 0, logits - (small.expm1() / small).log(), low)


def gumbel_of_log_odds(log_odds: Tensor) -> Tensor:
    """
    The inverse of :func:`log_odds_of_gumbel`: -log(log(1 + exp(-log_odds))).

    Args:
        log_odds: of any shape, float32 or float64.
    """
    small = (-log_odds.clamp(0, _EXACT)).exp()
    low = -(-F.logsigmoid(log_odds.clamp(max=0))).log()
    return torch.where(log_odds > 0, log_odds - (small.log1p() / small).log(), low)


@register_activation("gumbel")
class Gumbel(Activation):
    """
    One classifier per class with the score exp(-exp(-logit)) in place of the sigmoid.

    The score falls much faster below 0 than it rises above: negatives of a class with a low score have small gradients,
    and its positives have large ones. The background output is neither trained nor read. The loss does not depend on
    class counts.

    The outputs of the classifier are not log-odds, so that the checkpoint can't be evaluated with a sigmoid.
    :meth:`class_logits` are the log-odds of the scores: calibrations that shift logits divide the odds, as with a
    sigmoid.

    Args:
        num_classes: K.
        prior: not used.
        background: as in :class:`Activation`.
        initial_bias: of the classifier. At -2, the initial score of every class is 0.0006.

    Raises:
        InputError: if ``initial_bias`` is outside the range of training logits, where the gradient is 0.
    """

    family = "gumbel"

    def __init__(
        self, num_classes: int, prior: PriorSource = None, background: bool = True, *, initial_bias: float = -2.0
    ):
        super().__init__(num_classes, prior, background)
        if not LOWEST <= initial_bias <= HIGHEST:
            raise InputError(
                f"initial_bias is {initial_bias}; it must be between {LOWEST:g} and {HIGHEST:g}, such as -2. Outside, "
                "the gradient of the loss is 0."
            )
        self.initial_bias = initial_bias

    def loss(self, logits, gt_classes, roi_weight=None):
        self._check(logits, roi_weight)
        return gumbel_loss(self._of_classes(logits), gt_classes, weight_rows(roi_weight))

    def unshifted_loss(self, logits, gt_classes):
        return Gumbel.loss(self, logits, gt_classes)  # subclasses override loss(), not the scores

    def scores(self, logits):
        self._check(logits)
        scores = (-(-self._of_classes(logits)).exp()).exp()
        return F.pad(scores, (0, int(self.background)))

    def class_logits(self, logits):
        """(R, K) log-odds of the scores; half precision becomes float32."""
        return log_odds_of_gumbel(self._of_classes(logits))

    def with_class_logits(self, logits, class_logits):
        return super().with_class_logits(full_precision(logits), gumbel_of_log_odds(class_logits))

    def _of_classes(self, logits: Tensor) -> Tensor:
        """(R, K) outputs of the classifier, in full precision."""
        return full_precision(logits)[:, : self.num_classes]

    def init_bias_(self, bias):
        nn.init.constant_(bias, self.initial_bias)
