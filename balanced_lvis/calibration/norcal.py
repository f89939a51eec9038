"""NorCal: division of scores by class counts (Pan et al., NeurIPS 2021)."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..activations.base import full_precision
from ..activations.prior_module import PriorSource
from ..priors import ClassPrior, check_count
from .base import Calibration, check_finite, register_calibration


@register_calibration("norcal")
class NorCal(Calibration):
    """
    Scores divided by n_c^gamma and normalised again together with the background, which is not divided.

    For normalised scores s_c, such as those of a softmax or of Seesaw Loss, p_c ∝ s_c / n_c^gamma and p_background ∝
    s_background. For activations of which each class has a score of its own, such as sigmoids, 1 - s_c takes the role
    of the background: p_c = (s_c / n_c^gamma) / (s_c / n_c^gamma + 1 - s_c), the score of the log-odds z_c - gamma log
    n_c. Where these are multiplied by the score of not being background, it is unchanged.

    For a softmax, the order of the classes of an RoI is that of :class:`~balanced_lvis.calibration.LogitAdjustment`
    with tau = gamma. But n_c is not divided by its mean, so that equal counts lower the scores of all classes.

    Args:
        num_classes: K.
        prior: the training set's :class:`~balanced_lvis.priors.ClassPrior`.
        gamma: strength, at least 0; 0 leaves scores unchanged.
        count: "image", as in the paper, or "instance", what n_c counts. A count of 0 is taken as 0.5.

    Raises:
        InputError: if ``gamma`` is not a finite number of at least 0, or for another ``count``.
    """

    needs_prior = True
    grid: ClassVar = {"gamma": (0.2, 0.4, 0.6, 0.8, 1.0)}

    def __init__(self, num_classes: int, prior: PriorSource = None, *, gamma: float = 0.6, count: str = "image"):
        super().__init__(num_classes, prior)
        self.gamma = check_finite("norcal", "gamma", gamma, 0)
        self.count = check_count(count)

    @property
    def shift(self) -> Tensor:
        """(K,) float32, gamma log n_c."""
        return self.from_prior("shift", self._shift)

    def _shift(self, prior: ClassPrior) -> Tensor:
        return (self.gamma * torch.as_tensor(prior.class_counts(self.count)).log()).float()

    def scores(self, activation, logits):
        if not activation.normalized_scores:
            return super().scores(activation, logits)
        scores = activation.scores(full_precision(logits))
        # In logarithms, the largest part is 1: n_c^gamma can't make all parts vanish.
        parts = scores.log() - F.pad(self.shift, (0, scores.shape[1] - self.num_classes))
        return parts.softmax(dim=1)

    def class_logits(self, class_logits):
        return class_logits - self.shift
