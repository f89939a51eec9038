"""FRACAL (Alexandridis et al., Fractal Calibration for Long-tailed Object Detection, CVPR 2025)."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from ..activations.base import full_precision
from ..activations.prior_module import PriorSource
from ..priors import ClassPrior, check_count
from ..utils.errors import InputError
from .base import Calibration, check_finite, register_calibration, scores_of


@register_calibration("fracal")
class FRACAL(Calibration):
    """
    Scores corrected by the frequency of each class, and by how evenly its objects are spread over the image.

    With w_c = tau log(n / (K n_c)) and the fractal dimension D_c of the class's box centres:

    - softmax: p_c ∝ exp(z_c + w_c) / D_c^strength and p_background ∝ exp(z_background);
    - other normalised scores, as of Seesaw Loss: the activation's scores with z_c + w_c - strength log D_c in place of
      z_c. In Seesaw Loss, these are normalised among the classes, and the score of "object" is unchanged;
    - sigmoid and others of which each class has its own: the score of z_c times the score of
      z_c + w_c - log10(K D_c^strength / sum_j D_j^strength).

    Args:
        num_classes: K.
        prior: the training set's :class:`~balanced_lvis.priors.ClassPrior`, with fractal dimensions.
        strength: the paper's lambda, at least 0; 0 ignores the fractal dimension.
        tau: strength of the frequency; the default is 1 / ln 10, the paper's logarithm with base 10.
        count: "image" or "instance", what n_c counts.

    Raises:
        InputError: if a number is not finite, ``strength`` is less than 0, or for another ``count``.
    """

    needs_prior = True
    grid: ClassVar = {"strength": (0.0, 1.0, 2.0)}
    needs_boxes = True

    def __init__(
        self,
        num_classes: int,
        prior: PriorSource = None,
        *,
        strength: float = 2.0,
        tau: float = 1 / math.log(10),
        count: str = "image",
    ):
        super().__init__(num_classes, prior)
        self.strength = check_finite("fracal", "strength", strength, 0)
        self.tau = check_finite("fracal", "tau", tau)
        self.count = check_count(count)

    @property
    def frequency_shift(self) -> Tensor:
        """(K,) float32, w_c."""
        return self.from_prior("frequency_shift", self._frequency_shift)

    @property
    def log_dimension(self) -> Tensor:
        """(K,) float32, log(D_c^strength) with base e."""
        return self.from_prior("log_dimension", self._log_dimension)

    def _frequency_shift(self, prior: ClassPrior) -> Tensor:
        return (-self.tau * torch.as_tensor(prior.num_classes * prior.share(self.count)).log()).float()

    def _log_dimension(self, prior: ClassPrior) -> Tensor:
        if prior.fractal_dimension is None:
            raise InputError(
                "Calibration 'fracal' needs the fractal dimension of each class, which this class prior doesn't have: "
                "it is of an older version, or was counted without the boxes of objects (image classification has "
                "none, and Detectron2's metadata of LVIS-1.0 neither). Write it from the training annotations with "
                "`balanced-lvis analyze-dataset DATASET --boxes --json prior.json`, and set MODEL.CLASS_PRIOR.FILE to "
                "it."
            )
        return (self.strength * torch.tensor(prior.fractal_dimension).log()).float()

    def scores(self, activation, logits):
        logits = full_precision(logits)
        shifted = activation.class_logits(logits) + self.frequency_shift
        if activation.normalized_scores:
            # A softmax divides by D_c^strength if its logarithm is subtracted.
            return scores_of(activation, logits, shifted - self.log_dimension)
        log_share = self.log_dimension.log_softmax(dim=0) + math.log(self.num_classes)
        return activation.scores(logits) * scores_of(activation, logits, shifted - log_share / math.log(10))
