"""Post-hoc logit adjustment (Menon et al., Long-Tail Learning via Logit Adjustment, ICLR 2021)."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..activations.base import full_precision
from ..activations.prior_module import PriorSource
from ..priors import ClassPrior, check_count
from ..utils.errors import InputError
from .base import Calibration, register_calibration


@register_calibration("logit_adjustment")
class LogitAdjustment(Calibration):
    """
    The activation's scores of z_c - tau log(K n_c / n) instead of z_c.

    n_c / n is the prior of class c among the K classes. With the factor K, equal counts change nothing, and the odds of
    foreground versus background stay those of the classifier, as in
    :class:`~balanced_lvis.activations.BalancedSoftmax`. The factor makes no difference among the classes. The logit of
    the background is unchanged.

    Args:
        num_classes: K.
        prior: the training set's :class:`~balanced_lvis.priors.ClassPrior`.
        tau: strength; 0 leaves scores unchanged, 1 removes the training prior from a softmax.
        count: "image" or "instance", what n_c counts.

    Raises:
        InputError: if ``tau`` is not a finite number, or for another ``count``.
    """

    families = ("sigmoid", "softmax")
    needs_prior = True
    grid: ClassVar = {"tau": (0.25, 0.5, 0.75, 1.0)}

    def __init__(self, num_classes: int, prior: PriorSource = None, *, tau: float = 1.0, count: str = "image"):
        super().__init__(num_classes, prior)
        if not math.isfinite(tau):
            raise InputError(f"tau of logit_adjustment is {tau}; it must be a finite number, such as 1.0.")
        self.tau = tau
        self.count = check_count(count)

    @property
    def shift(self) -> Tensor:
        """(K,) float32, what is subtracted from the logits of the classes."""
        return self.from_prior("shift", self._shift)

    def _shift(self, prior: ClassPrior) -> Tensor:
        log_prior = torch.as_tensor(prior.num_classes * prior.share(self.count)).log()
        return (self.tau * log_prior).float()

    def scores(self, activation, logits):
        logits = full_precision(logits)
        # The classes are the first K outputs in both families.
        return activation.scores(logits - F.pad(self.shift, (0, activation.num_outputs - self.num_classes)))
