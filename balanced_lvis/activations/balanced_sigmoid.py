"""Balanced Sigmoid (Ren et al., Balanced Activation for Long-tailed Visual Recognition, LVIS 2020 challenge)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..priors import ClassPrior, check_count
from ..utils.errors import InputError
from .base import full_precision, register_activation
from .prior_module import PriorSource
from .sigmoid import Sigmoid, sigmoid_loss, weight_rows

FORMS = ("centred", "foreground")


def foreground_offset(prior: ClassPrior) -> np.ndarray:
    """
    (K,) float64, log((1 - f_j) / f_j): the offset of the authors' code for instance segmentation.

    It is meant for foreground RoIs only. Between about 3.9 and 11.5 on LVIS-1.0.
    """
    frequency = prior.image_frequency()
    return np.log1p(-frequency) - np.log(frequency)


def centred_offset(prior: ClassPrior, count: str = "image") -> np.ndarray:
    """
    (K,) float64, log( (n/K)/n_j * (n-n_j)/(n-n/K) ) = log((n-n_j)/n_j) - log(K-1): the offset of the report.

    Zero for a class with exactly n/K samples, positive for rarer and negative for more frequent ones.

    Args:
        prior: of the training set.
        count: "image" or "instance", what n_j counts.
    """
    if prior.num_classes == 1:
        return np.zeros(1)  # 0/0 in the formula: there is no other class to balance against
    share = prior.share(count)
    return np.log1p(-share) - np.log(share) - np.log(prior.num_classes - 1)


def balanced_sigmoid_loss(
    logits: Tensor, gt_classes: Tensor, offset: Tensor, foreground_only: bool = True, weight: Tensor | None = None
) -> Tensor:
    """
    Sigmoid loss on ``logits - offset``.

    Args:
        logits: (R, K), without a background output.
        gt_classes: (R,) int64 in 0..K, K for background.
        offset: (K,), positive for rare classes: their training logit is lowered, so the raw logit must rise.
        foreground_only: don't shift the logits of background RoIs.
        weight: broadcastable to (R, K), as in :func:`balanced_lvis.activations.sigmoid_loss`.

    Returns:
        scalar, as :func:`balanced_lvis.activations.sigmoid_loss`.
    """
    shift = offset.to(logits.dtype).expand_as(logits)
    if foreground_only:
        foreground = gt_classes < logits.shape[1]
        shift = shift * foreground[:, None]
    return sigmoid_loss(logits - shift, gt_classes, weight)


@register_activation("balanced_sigmoid")
class BalancedSigmoid(Sigmoid):
    """
    Sigmoids whose logits are shifted by the class prior in training and unshifted at test time.

    Two forms, which differ by more than a constant:

    ============ ====================================== ============ ==================================
    form         offset of class j                      RoIs         n_j, f_j
    ============ ====================================== ============ ==================================
    foreground   log((1 - f_j) / f_j)                   foreground   f_j = images with class j / N
    centred      log((n - n_j) / n_j) - log(K - 1)      all          n_j counts images or instances
    ============ ====================================== ============ ==================================

    "centred" is the formula of the report (Ren et al. 2020); "foreground" is that of the authors' detection code, where
    it is called "BalancedSoftmax".

    Args:
        num_classes: K.
        prior: the training set's :class:`ClassPrior`.
        background: as in :class:`.base.Activation`.
        form: "centred" or "foreground"; docs/methods.md compares them on the rendered data.
        count: "image" or "instance", what n_j counts in the centred form. The foreground form counts images.
        prior_probability: as in :class:`Sigmoid`; it sets the bias of the unshifted logits.

    Raises:
        InputError: for another ``form`` or ``count``.
    """

    needs_prior = True

    def __init__(
        self,
        num_classes: int,
        prior: PriorSource = None,
        background: bool = True,
        *,
        form: str = "centred",
        count: str = "image",
        prior_probability: float = 0.001,
    ):
        super().__init__(num_classes, prior, background, prior_probability=prior_probability)
        if form not in FORMS:
            raise InputError(f"form of balanced_sigmoid is {form!r}; valid: {', '.join(FORMS)}.")
        self.foreground_only = form == "foreground"
        self.count = check_count(count)

    @property
    def offset(self) -> Tensor:
        """(K,) float32, what is subtracted from the logits in training."""
        return self.from_prior("offset", self._offset)

    def _offset(self, prior: ClassPrior) -> Tensor:
        return -torch.as_tensor(self._shift(prior), dtype=torch.float32)

    def _shift(self, prior: ClassPrior) -> np.ndarray:
        return -(foreground_offset(prior) if self.foreground_only else centred_offset(prior, self.count))

    def training_shift(self):
        return self._shift(self.prior)

    def loss(self, logits, gt_classes, roi_weight=None):
        self._check(logits, roi_weight)
        logits = self.class_logits(full_precision(logits))
        return balanced_sigmoid_loss(logits, gt_classes, self.offset, self.foreground_only, weight_rows(roi_weight))
