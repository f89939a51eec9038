"""Balanced Sigmoid (Ren et al., Balanced Activation for Long-tailed Visual Recognition, LVIS 2020 challenge)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..utils.errors import InputError
from .base import full_precision, register_activation
from .sigmoid import Sigmoid, sigmoid_loss, weight_rows

FORMS = ("centred", "foreground")


def balanced_sigmoid_loss(
    logits: Tensor, gt_classes: Tensor, offset: Tensor, foreground_only: bool = True, weight: Tensor | None = None
) -> Tensor:
    """
    Sigmoid loss on ``logits - offset``.

    Args:
        logits: (R, K), without a background unit.
        gt_classes: (R,) int64 in 0..K, K for background.
        offset: (K,), positive for rare classes: their training logit is lowered, so the raw logit has to rise.
        foreground_only: leave the logits of background RoIs as they are.
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
    Sigmoids whose training logits carry the class prior and whose test-time scores don't.

    Two forms, which differ in more than a constant:

    ============ ====================================== ============ ==================================
    form         offset of class j                      RoIs         n_j, f_j
    ============ ====================================== ============ ==================================
    foreground   log((1 - f_j) / f_j)                   foreground   f_j = images with class j / N
    centred      log((n - n_j) / n_j) - log(K - 1)      all          n_j counts images or instances
    ============ ====================================== ============ ==================================

    "centred" is the formula of the challenge's slides; "foreground" is that of the authors' detection code, whose class
    "BalancedSoftmax" it is.

    Args:
        num_classes: K.
        prior: the training set's :class:`ClassPrior`.
        form: "centred" or "foreground"; docs/methods.md compares them on the rendered data.
        count: "image" or "instance", what the centred form's n_j counts. The foreground form is defined on images.
        prior_probability: as in :class:`Sigmoid`; it sets the raw logit's bias.
    """

    needs_prior = True

    def __init__(
        self, num_classes, prior=None, *, form: str = "centred", count: str = "image", prior_probability=0.001
    ):
        super().__init__(num_classes, prior, prior_probability=prior_probability)
        if form not in FORMS:
            raise InputError(f"form of balanced_sigmoid is {form!r}; valid: {', '.join(FORMS)}.")
        self.foreground_only = form == "foreground"
        offset = prior.foreground_offset() if self.foreground_only else prior.centred_offset(count)
        # Not persistent: it follows from the configuration, and stock checkpoints have no such entry.
        self.offset: Tensor
        self.register_buffer("offset", torch.as_tensor(offset, dtype=torch.float32), persistent=False)

    def loss(self, logits, gt_classes, roi_weight=None):
        self._check(logits, roi_weight)
        logits = full_precision(logits)[:, :-1]
        return balanced_sigmoid_loss(logits, gt_classes, self.offset, self.foreground_only, weight_rows(roi_weight))
