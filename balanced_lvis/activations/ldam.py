"""LDAM (Cao et al., Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss, NeurIPS 2019)."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..priors import ClassPrior
from ..utils.errors import InputError
from .base import full_precision, register_activation
from .prior_module import PriorSource
from .weighted_softmax import WeightedSoftmax, check_beta, effective_number_weights


class CosineClassifier(nn.Module):
    """
    Logits that are a multiple of the cosine between the features and a weight vector per output.

    Args:
        in_features: D.
        num_outputs: C.
        logit_scale: the factor s.
    """

    def __init__(self, in_features: int, num_outputs: int, logit_scale: float):
        super().__init__()
        self.logit_scale = logit_scale
        self.weight = nn.Parameter(F.normalize(torch.randn(num_outputs, in_features), dim=1))

    def forward(self, x: Tensor) -> Tensor:
        """(R, D) to (R, C), between -s and s, in full precision under autocast, too."""
        features = F.normalize(full_precision(x), dim=1)
        with torch.autocast(x.device.type, enabled=False):
            return self.logit_scale * F.linear(features, F.normalize(self.weight, dim=1))


def ldam_margins(prior: ClassPrior, max_margin: float = 0.5, count: str = "image") -> np.ndarray:
    """
    (K,) float64, C / n_j^(1/4), with C such that the largest margin is ``max_margin``.

    Args:
        prior: of the training set.
        max_margin: margin of the rarest class, in units of the cosine.
        count: "image" or "instance", what n_j counts.
    """
    margins = prior.class_counts(count) ** -0.25
    return max_margin * margins / margins.max()


def subtract_margins(logits: Tensor, gt_classes: Tensor, margins: Tensor) -> Tensor:
    """
    Lower the logit of each RoI's class.

    Args:
        logits: (R, C).
        gt_classes: (R,) int64 in 0..C-1.
        margins: (C,), in units of the logits.

    Returns:
        (R, C).
    """
    own = gt_classes[:, None]
    return logits.scatter_add(1, own, -margins.to(logits.dtype)[own])


@register_activation("ldam")
class LDAM(WeightedSoftmax):
    """
    Softmax over s cos(theta_j), from which s m_j is subtracted for the class of the RoI: rare classes get wide margins.

    cos(theta_j) is the cosine between the features and the weights of class j, so the classifier is a
    :class:`CosineClassifier`. The background has no margin. Scores have no margins. LDAM-DRW is this loss with
    ``drw_start``, after which the cross entropy has the weights of the Class-Balanced loss.

    Args:
        num_classes: K.
        prior: the training set's :class:`ClassPrior`.
        background: as in :class:`.base.Activation`.
        max_margin: of the rarest class, in units of the cosine.
        scale: s.
        beta: of the effective number of samples, for the weights; see
            :func:`~balanced_lvis.activations.effective_number_weights`.
        count: "image" or "instance", what n_j counts.
        drw_start: number of updates before the weights apply: 0 for weights from the start, -1 for none.
        reduction: "weighted_mean" divides by the sum of the weights of the batch, as the authors' code; "mean" by R.

    Raises:
        InputError: for an invalid option.
    """

    neutral_at_uniform_counts = False  # equal margins stay

    def __init__(
        self,
        num_classes: int,
        prior: PriorSource = None,
        background: bool = True,
        *,
        max_margin: float = 0.5,
        scale: float = 30.0,
        beta: float = 0.9999,
        count: str = "image",
        drw_start: int = -1,
        reduction: str = "weighted_mean",
    ):
        super().__init__(num_classes, prior, background, count=count, drw_start=drw_start, reduction=reduction)
        if not 0 <= max_margin < math.inf:
            raise InputError(f"max_margin of ldam is {max_margin}; it must be 0 (no margins) or more, such as 0.5.")
        if not 0 < scale < math.inf:
            raise InputError(f"scale of ldam is {scale}; it must be positive, such as 30.")
        self.max_margin, self.scale, self.beta = max_margin, scale, check_beta(beta)

    @property
    def classifier_kind(self):
        return f"cosine with scale {self.scale:g}"

    def classifier(self, in_features):
        return CosineClassifier(in_features, self.num_outputs, self.scale)

    def weights_of_classes(self, prior):
        return effective_number_weights(prior, self.beta, self.count)

    @property
    def margins(self) -> Tensor:
        """(C,) float32, s m_j; 0 for the background."""
        return self.from_prior("margins", self._margins)

    def _margins(self, prior: ClassPrior) -> Tensor:
        margins = torch.as_tensor(self.scale * ldam_margins(prior, self.max_margin, self.count), dtype=torch.float32)
        return F.pad(margins, (0, int(self.background)))

    def training_logits(self, logits, gt_classes):
        return subtract_margins(logits, gt_classes, self.margins)
