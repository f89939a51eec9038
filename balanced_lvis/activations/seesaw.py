"""Seesaw Loss (Wang et al., Seesaw Loss for Long-Tailed Instance Segmentation, CVPR 2021)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..utils.errors import InputError
from .base import Activation, full_precision, register_activation
from .normalized_linear import NormalizedLinear, check_temperature, normalized_kind
from .prior_module import PriorSource


def seesaw_factors(logits: Tensor, gt_classes: Tensor, seen: Tensor, p: float, q: float, eps: float) -> Tensor:
    """
    Logarithm of the factors by which the classes count in the denominator of a RoI's softmax.

    Class j counts M_yj C_yj times for a RoI of class y:

        mitigation    M_yj = (N_j / N_y)^p         where N_j < N_y, else 1
        compensation  C_yj = (s_j / max(s_y, eps))^q   where s_j > s_y, else 1

    N_j is the number of RoIs of class j so far, at least 1, and s the softmax of the logits. So RoIs of frequent
    classes suppress rarer ones less, unless these have the higher score.

    Args:
        logits: (R, K).
        gt_classes: (R,) int64 in 0..K-1.
        seen: (K,), N.
        p, q: exponents, 0 or more; 0 for no such factor.
        eps: least score of the RoI's class, a bound of C.

    Returns:
        (R, K) without gradients; 0 for the class of the RoI.
    """
    own = gt_classes[:, None]
    log_seen = seen.clamp(min=1).to(logits.dtype).log()
    log_scores = logits.detach().log_softmax(1)
    mitigation = (log_seen - log_seen[own]).clamp(max=0)
    compensation = (log_scores - log_scores.gather(1, own).clamp(min=math.log(eps))).clamp(min=0)
    return p * mitigation + q * compensation


@register_activation("seesaw")
class Seesaw(Activation):
    """
    Softmax over the classes whose denominators are re-weighted by class counts and scores, and one over objectness.

    The logits are those of the K classes, of "object" and of "background". The cross entropy of the classes, on
    foreground RoIs, has the :func:`seesaw_factors`; that of objectness is the plain one, on all RoIs. Both are divided
    by R, as in the authors' code. The score of a class is softmax(classes) times the score of "object".

    The counts N are those of training so far: of sampled RoIs, in all processes. In the authors' code, each process has
    its own counts, which include the current batch.

    Args:
        num_classes: K.
        prior: not used.
        background: as in :class:`.base.Activation`; without it, there are the logits of the classes only.
        p: exponent of the mitigation factor, which relies on the counts.
        q: exponent of the compensation factor, which relies on the scores.
        eps: least score of the RoI's class in the compensation factor.
        temperature: of the :class:`NormalizedLinear` classifier.

    Raises:
        InputError: for an invalid option.
    """

    family = "seesaw"
    normalized_scores = True
    neutral_at_uniform_counts = False  # the compensation factor stays
    exact_gradient = False  # the factors have no gradients

    def __init__(
        self,
        num_classes: int,
        prior: PriorSource = None,
        background: bool = True,
        *,
        p: float = 0.8,
        q: float = 2.0,
        eps: float = 0.01,
        temperature: float = 20.0,
    ):
        super().__init__(num_classes, prior, background)
        for name, exponent in (("p", p), ("q", q)):
            if not 0 <= exponent < math.inf:
                raise InputError(f"{name} of seesaw is {exponent}; it must be 0 (no such factor) or more.")
        if not 0 < eps <= 1:
            raise InputError(f"eps of seesaw is {eps}; it must be a score above 0, such as 0.01.")
        self.p, self.q, self.eps = p, q, eps
        self.temperature = check_temperature(temperature, "temperature of seesaw")
        self.seen: Tensor
        self.add_state("seen", torch.zeros(num_classes, dtype=torch.int64))

    @property
    def num_outputs(self):
        return self.num_classes + 2 * int(self.background)

    @property
    def classifier_kind(self):
        return normalized_kind(self.temperature)

    def classifier(self, in_features):
        return self._initialized(NormalizedLinear(in_features, self.num_outputs, self.temperature))

    def loss(self, logits, gt_classes, roi_weight=None):
        return self._loss(logits, gt_classes, roi_weight, balanced=True)

    def unshifted_loss(self, logits, gt_classes):
        return self._loss(logits, gt_classes, None, balanced=False)

    def _loss(self, logits: Tensor, gt_classes: Tensor, roi_weight: Tensor | None, balanced: bool) -> Tensor:
        self._check(logits, roi_weight)
        logits = full_precision(logits)
        if not len(logits):
            return logits.sum() * 0
        # Background RoIs are given any class, and weight 0: without a selection, a GPU needn't be waited for.
        own = gt_classes.clamp(max=self.num_classes - 1)
        classes = self.class_logits(logits)
        if balanced:
            classes = classes + seesaw_factors(classes, own, self.seen, self.p, self.q, self.eps)
        losses = F.cross_entropy(classes, own, reduction="none")
        if self.background:
            is_background = (gt_classes == self.num_classes).long()
            losses = losses * (1 - is_background)
            losses = losses + F.cross_entropy(logits[:, self.num_classes :], is_background, reduction="none")
        return (losses if roi_weight is None else losses * roi_weight.to(losses.dtype)).mean()

    def scores(self, logits):
        self._check(logits)
        logits = full_precision(logits)
        scores = self.class_logits(logits).softmax(1)
        if not self.background:
            return scores
        is_object, background = logits[:, self.num_classes :].softmax(1).split(1, dim=1)
        return torch.cat([scores * is_object, background], dim=1)

    def observe(self, logits, gt_classes):
        self.seen += F.one_hot(gt_classes, self.num_classes + 1)[:, : self.num_classes].sum(0)
