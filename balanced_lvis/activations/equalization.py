"""Equalization Loss (Tan et al., Equalization Loss for Long-Tailed Object Recognition, CVPR 2020)."""

from __future__ import annotations

from torch import Tensor

from .base import full_precision, register_activation
from .prior_module import PriorSource
from .sigmoid import Sigmoid, sigmoid_loss, without_negatives
from .tail import TailClasses


def equalization_loss(logits: Tensor, gt_classes: Tensor, tail: Tensor, roi_weight: Tensor | None = None) -> Tensor:
    """
    Sigmoid loss in which foreground RoIs of other classes don't lower the scores of tail classes.

    Entry (r, j) has weight 1 - E(r) T_j (1 - y_rj): E is 1 on foreground RoIs, T is 1 for tail classes, y is 1 for the
    class of the RoI. So positives have weight 1, and background RoIs count as negatives of all classes.

    Args:
        logits: (R, K), without a background output.
        gt_classes: (R,) int64 in 0..K, K for background.
        tail: (K,) of any dtype, T: non-zero for tail classes.
        roi_weight: (R,) weight of each RoI's loss, 1 by default.

    Returns:
        scalar, as :func:`balanced_lvis.activations.sigmoid_loss`; the divisor is always R.
    """
    foreground = gt_classes < logits.shape[1]
    weight = without_negatives(logits, gt_classes, foreground[:, None] & (tail != 0))
    if roi_weight is not None:
        weight = weight * roi_weight.to(logits.dtype)[:, None]
    return sigmoid_loss(logits, gt_classes, weight)


@register_activation("equalization")
class Equalization(TailClasses, Sigmoid):
    """
    Sigmoids in which tail classes have positives and background RoIs only: no negatives from other classes.

    Args:
        num_classes: K.
        prior: the training set's :class:`~balanced_lvis.priors.ClassPrior`.
        background: as in :class:`.base.Activation`.
        threshold: lambda, in (0, 1]: classes in less than this share of the training images are the tail. The paper
            uses 1.76e-3 on LVIS-0.5, later work 1.1e-3 on LVIS-1.0, where 1.00625e-3 selects exactly the rare and
            common classes. The released LVIS-1.0 config with repeat factor sampling also uses 1.1e-3.
        tail_groups: letters of LVIS's groups that are the tail, such as "rc" for rare and common. If given,
            ``threshold`` is ignored.
        prior_probability: as in :class:`Sigmoid`.

    Raises:
        InputError: for a threshold outside (0, 1] or an unknown group.
    """

    _name = "equalization"

    def __init__(
        self,
        num_classes: int,
        prior: PriorSource = None,
        background: bool = True,
        *,
        threshold: float = 0.0011,
        tail_groups: str = "",
        prior_probability: float = 0.001,
    ):
        super().__init__(num_classes, prior, background, prior_probability=prior_probability)
        self.set_tail(threshold, tail_groups)

    def loss(self, logits, gt_classes, roi_weight=None):
        self._check(logits, roi_weight)
        return equalization_loss(self.class_logits(full_precision(logits)), gt_classes, self.tail, roi_weight)
