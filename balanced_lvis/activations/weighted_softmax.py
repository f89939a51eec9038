"""
Softmax cross entropy with class weights, which may be deferred (DRW).

Deferred re-weighting: Cao et al., Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss, NeurIPS 2019.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..priors import ClassPrior, check_count
from ..utils.errors import InputError
from .base import full_precision
from .focal import check_gamma, focal_losses
from .prior_module import PriorSource
from .softmax import Softmax

REDUCTIONS = ("mean", "weighted_mean")
MEANS = ("classes", "samples")


def inverse_frequency_weights(prior: ClassPrior, count: str = "image") -> np.ndarray:
    """
    (K,) float64, proportional to 1 / n_j, with a mean of 1 over the classes.

    Args:
        prior: of the training set.
        count: "image" or "instance", what n_j counts.
    """
    return _with_mean_one(1 / prior.class_counts(count), prior)


def effective_number_weights(
    prior: ClassPrior, beta: float = 0.9999, count: str = "image", mean_over: str = "classes"
) -> np.ndarray:
    """
    (K,) float64, proportional to 1 / E_j, with a mean of 1 over the classes (a sum of K, as in the paper).

    E_j = (1 - beta^n_j) / (1 - beta) is the effective number of samples (Cui et al., CVPR 2019, Proposition 1). It is 1
    for beta = 0, so that all weights are 1, and approaches n_j as beta approaches 1.

    Args:
        prior: of the training set.
        beta: in [0, 1).
        count: "image" or "instance", what n_j counts.
        mean_over: "classes", or "samples" for a mean of 1 over the n_j samples of all classes.

    Raises:
        InputError: for another ``beta`` or ``mean_over``.
    """
    counts = prior.class_counts(count)
    weights = (1 - check_beta(beta)) / (1 - np.power(beta, counts))
    if check_mean(mean_over) == "samples":
        return _with_mean_one(weights, prior, counts)
    return _with_mean_one(weights, prior)


def _with_mean_one(weights: np.ndarray, prior: ClassPrior, counts: np.ndarray | None = None) -> np.ndarray:
    """
    Divided by the mean over the classes, each ``counts`` times, that have samples: others would take most of the sum,
    and have no loss.
    """
    seen = prior.image_count > 0
    share = (np.ones(len(weights)) if counts is None else counts) * (seen if seen.any() else 1.0)
    return weights / np.average(weights, weights=share)


def check_beta(beta: float) -> float:
    """
    Args:
        beta: of the effective number of samples.

    Returns:
        ``beta``.

    Raises:
        InputError: if it is outside [0, 1).
    """
    if not 0 <= beta < 1:
        raise InputError(f"beta is {beta}; it must be 0 (equal weights) or more, and below 1, such as 0.9999.")
    return beta


def check_mean(mean_over: str) -> str:
    """
    Args:
        mean_over: what class weights have a mean of 1 over, "classes" or "samples".

    Returns:
        ``mean_over``.

    Raises:
        InputError: for anything else.
    """
    if mean_over not in MEANS:
        raise InputError(f"mean_over is {mean_over!r}; valid: {', '.join(MEANS)}.")
    return mean_over


def weighted_softmax_loss(
    logits: Tensor,
    gt_classes: Tensor,
    class_weight: Tensor,
    roi_weight: Tensor | None = None,
    *,
    gamma: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    """
    Cross entropy, or focal loss, with a weight per class.

    Args:
        logits: (R, C).
        gt_classes: (R,) int64 in 0..C-1.
        class_weight: (C,).
        roi_weight: (R,) weight of each RoI's loss, 1 by default. It doesn't change the divisor.
        gamma: focusing parameter of the focal loss; 0 for the cross entropy.
        reduction: the divisor is R for "mean", and the sum of the RoIs' class weights for "weighted_mean".

    Returns:
        scalar; 0 with gradients where R = 0.
    """
    if logits.shape[0] == 0:
        return logits.sum() * 0
    losses = focal_losses(logits, gt_classes, gamma)
    weights = class_weight.to(losses.dtype)[gt_classes]
    divisor = weights.sum() if reduction == "weighted_mean" else len(weights)
    if roi_weight is not None:
        weights = weights * roi_weight.to(losses.dtype)
    return (weights * losses).sum() / divisor


class WeightedSoftmax(Softmax):
    """
    Base class of softmaxes whose cross entropy has a weight per class; the background has weight 1.

    Subclasses define :meth:`weights_of_classes`, and may override :meth:`training_logits`. With ``drw_start``, training
    begins without weights. The updates are counted as state, so that a resumed run continues the count.

    The sum of weights times losses is divided by R, or by the sum of the weights of the batch. The latter is the
    reduction of torch's ``cross_entropy(weight=...)``. In a long-tailed batch, most RoIs are of classes with small
    weights: with the former, the gradients are several times smaller and need a higher learning rate.

    Args:
        num_classes: K.
        prior: the training set's :class:`ClassPrior`.
        background: as in :class:`.base.Activation`.
        count: "image" or "instance", what n_j counts.
        drw_start: number of updates before the weights apply (deferred re-weighting): 0 for weights from the start, -1
            for none.
        reduction: "mean" divides by R, "weighted_mean" by the sum of the weights of the RoIs' classes.
        gamma: focusing parameter of the focal loss; 0 for the cross entropy.

    Raises:
        InputError: for an invalid option.
    """

    needs_prior = True

    def __init__(
        self,
        num_classes: int,
        prior: PriorSource = None,
        background: bool = True,
        *,
        count: str = "image",
        drw_start: int = 0,
        reduction: str = "mean",
        gamma: float = 0.0,
    ):
        super().__init__(num_classes, prior, background)
        name = type(self).__name__
        if isinstance(drw_start, bool) or not isinstance(drw_start, int) or drw_start < -1:
            raise InputError(
                f"drw_start of {name} is {drw_start!r}; it must be a number of updates, 0 for weights from the start "
                "or -1 for none."
            )
        if reduction not in REDUCTIONS:
            raise InputError(f"reduction of {name} is {reduction!r}; valid: {', '.join(REDUCTIONS)}.")
        self.count, self.drw_start, self.reduction = check_count(count), drw_start, reduction
        self.gamma = check_gamma(gamma, name)
        self.updates: Tensor
        if drw_start > 0:
            # All processes make the same number of updates, so the mean of the changes is 1.
            self.add_state("updates", torch.zeros((), dtype=torch.int64), reduce="mean")

    def weights_of_classes(self, prior: ClassPrior) -> np.ndarray:
        """(K,) float64: the weight of each class, with a mean of 1."""
        raise NotImplementedError

    def training_logits(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        """(R, C) logits of the loss, in full precision: those of the classifier, unless an activation changes them."""
        return logits

    @property
    def class_weight(self) -> Tensor:
        """(C,) float32: the weights that apply now."""
        weights = self.from_prior("class_weight", self._class_weight)
        if not self.states:
            return weights
        # Not an if: a GPU would be waited for.
        return torch.where(self.updates >= self.drw_start, weights, torch.ones_like(weights))

    def _class_weight(self, prior: ClassPrior) -> Tensor:
        weights = np.ones(self.num_classes) if self.drw_start < 0 else self.weights_of_classes(prior)
        return F.pad(torch.as_tensor(weights, dtype=torch.float32), (0, int(self.background)), value=1.0)

    def loss(self, logits, gt_classes, roi_weight=None):
        self._check(logits, roi_weight)
        logits = self.training_logits(full_precision(logits), gt_classes)
        return weighted_softmax_loss(
            logits, gt_classes, self.class_weight, roi_weight, gamma=self.gamma, reduction=self.reduction
        )

    def observe(self, logits, gt_classes):
        if self.states:
            self.updates += 1
