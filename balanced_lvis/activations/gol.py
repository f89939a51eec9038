"""GOL (Alexandridis et al., Long-tailed Instance Segmentation using Gumbel Optimized Loss, ECCV 2022)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..priors import ClassPrior
from .base import full_precision, register_activation
from .drop_loss import random_drop_weights
from .equalization import check_tail_groups, check_threshold, tail_classes
from .gumbel import Gumbel, gumbel_loss
from .prior_module import PriorSource


@register_activation("gol")
class GOL(Gumbel):
    """
    :class:`Gumbel` with the weights of :class:`~balanced_lvis.activations.DropLoss`.

    Args:
        num_classes: K.
        prior: the training set's :class:`~balanced_lvis.priors.ClassPrior`.
        background: as in :class:`.base.Activation`.
        threshold, tail_groups: the tail, as in :class:`~balanced_lvis.activations.Equalization`.
        initial_bias: as in :class:`Gumbel`.

    Raises:
        InputError: for an invalid option.
    """

    needs_prior = True
    deterministic = False

    def __init__(
        self,
        num_classes: int,
        prior: PriorSource = None,
        background: bool = True,
        *,
        threshold: float = 0.0011,
        tail_groups: str = "",
        initial_bias: float = -2.0,
    ):
        super().__init__(num_classes, prior, background, initial_bias=initial_bias)
        self.threshold = check_threshold(threshold, "gol")
        self.tail_groups = check_tail_groups(tail_groups, "gol")

    @property
    def tail(self) -> Tensor:
        """(K,) bool: whether each class is in the tail."""
        return self.from_prior("tail", self._tail)

    def _tail(self, prior: ClassPrior) -> Tensor:
        return torch.as_tensor(tail_classes(prior, self.threshold, self.tail_groups))

    def loss(self, logits, gt_classes, roi_weight=None):
        self._check(logits, roi_weight)
        logits = self.class_logits(full_precision(logits))
        return gumbel_loss(logits, gt_classes, random_drop_weights(logits, gt_classes, self.tail, roi_weight))
