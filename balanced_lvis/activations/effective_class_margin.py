"""Effective Class-Margin loss (Cho and Kraehenbuehl, Long-tail Detection with Effective Class-Margins, ECCV 2022)."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..priors import ClassPrior, check_count
from ..utils.errors import InputError
from .base import full_precision, register_activation
from .normalized_linear import NormalizedLinear, check_temperature, normalized_kind
from .prior_module import PriorSource
from .sigmoid_background import SigmoidBackground


def output_counts(prior: ClassPrior, background_ratio: float | None = 6.3313, count: str = "image") -> np.ndarray:
    """
    (C,) float64: n_j of each class and, unless ``background_ratio`` is None, of the background.

    Args:
        prior: of the training set.
        background_ratio: count of the background over the sum of the counts of the classes.
        count: "image" or "instance", what n_j counts.
    """
    counts = prior.class_counts(count)
    return counts if background_ratio is None else np.append(counts, background_ratio * counts.sum())


def margin_shift(counts: np.ndarray) -> np.ndarray:
    """
    (C,) float64, log(n_j / (n - n_j)) / 4: what is added to twice the logit in training.

    It is the difference of the two margins of class j, log((n_j^(1/4) + (n - n_j)^(1/4)) / (n - n_j)^(1/4)) of its
    positives and the same over n_j^(1/4) of its negatives. A count of 0, of the class or of all others, is taken as
    0.5.

    Args:
        counts: (C,) from :func:`output_counts`.
    """
    return (np.log(np.maximum(counts, 0.5)) - np.log(np.maximum(counts.sum() - counts, 0.5))) / 4


def margin_weights(counts: np.ndarray) -> np.ndarray:
    """
    (C,) float64, a_j log((1 + a_j) / a_j), where a_j = (n - n_j) / n_j: near 1 for rare classes, lower for others.

    Args:
        counts: (C,) from :func:`output_counts`; 0 is taken as 0.5, as in :func:`margin_shift`.
    """
    ratio = np.maximum(counts.sum() - counts, 0.5) / np.maximum(counts, 0.5)
    return ratio * np.log1p(1 / ratio)


def effective_class_margin_loss(
    logits: Tensor, gt_classes: Tensor, shift: Tensor, output_weight: Tensor, roi_weight: Tensor | None = None
) -> Tensor:
    """
    Weighted binary cross entropy of sigmoid(2 logits + shift), summed over outputs and averaged over RoIs.

    Args:
        logits: (R, C), the background included.
        gt_classes: (R,) int64 in 0..C-1.
        shift: (C,) from :func:`margin_shift`.
        output_weight: (C,) from :func:`margin_weights`.
        roi_weight: (R,) weight of each RoI's loss, 1 by default. The divisor stays R, and gradients reach the weights.

    Returns:
        scalar; 0 with gradients where R = 0.
    """
    if logits.shape[0] == 0:
        return logits.sum() * 0
    target = F.one_hot(gt_classes, logits.shape[1]).to(logits.dtype)
    losses = F.binary_cross_entropy_with_logits(2 * logits + shift.to(logits.dtype), target, reduction="none")
    weight = output_weight.to(logits.dtype)
    if roi_weight is not None:
        weight = weight * roi_weight.to(logits.dtype)[:, None]
    return (losses * weight).sum() / logits.shape[0]


@register_activation("effective_class_margin")
class EffectiveClassMargin(SigmoidBackground):
    """
    One-versus-rest classifiers, of the background too, with margins that follow from the class counts.

    In training, output j has the probability sigmoid(2 z_j + log(n_j / (n - n_j)) / 4), so that rare classes need
    higher logits. The scores are those of :class:`SigmoidBackground`, without shift and without the factor 2. The
    classifier is a :class:`NormalizedLinear` whose bias starts at 0, as in the authors' code.

    Args:
        num_classes: K.
        prior: the training set's :class:`~balanced_lvis.priors.ClassPrior`.
        background: as in :class:`.base.Activation`. Without it, scores are sigmoids.
        background_ratio: count of the background over the sum of the class counts. The paper measured 6.3313
            background RoIs per foreground RoI on LVIS-1.0.
        count: "image" or "instance", what n_j counts.
        temperature: of the :class:`NormalizedLinear` classifier.

    Raises:
        InputError: for an invalid option.
    """

    needs_prior = True
    has_margins = True
    neutral_at_uniform_counts = False  # margins depend on a class's share of all samples, not on imbalance only

    def __init__(
        self,
        num_classes: int,
        prior: PriorSource = None,
        background: bool = True,
        *,
        background_ratio: float = 6.3313,
        count: str = "image",
        temperature: float = 20.0,
    ):
        super().__init__(num_classes, prior, background, prior_probability=0.5)  # a bias of 0
        if not 0 <= background_ratio < math.inf:
            raise InputError(
                f"background_ratio of effective_class_margin is {background_ratio}; it must be the number of "
                "background RoIs per foreground RoI, such as 6.3313."
            )
        self.background_ratio, self.count = background_ratio, check_count(count)
        self.temperature = check_temperature(temperature, "temperature of effective_class_margin")

    @property
    def classifier_kind(self):
        return normalized_kind(self.temperature)

    def classifier(self, in_features):
        return self._initialized(NormalizedLinear(in_features, self.num_outputs, self.temperature))

    def _counts(self, prior: ClassPrior) -> np.ndarray:
        return output_counts(prior, self.background_ratio if self.background else None, self.count)

    @property
    def shift(self) -> Tensor:
        """(C,) float32, what is added to twice the logits in training."""
        return self.from_prior("shift", lambda prior: torch.as_tensor(margin_shift(self._counts(prior))).float())

    @property
    def output_weight(self) -> Tensor:
        """(C,) float32, the weight of each output's loss."""
        return self.from_prior("weight", lambda prior: torch.as_tensor(margin_weights(self._counts(prior))).float())

    def loss(self, logits, gt_classes, roi_weight=None):
        self._check(logits, roi_weight)
        return effective_class_margin_loss(
            full_precision(logits), gt_classes, self.shift, self.output_weight, roi_weight
        )
