"""GOL (Alexandridis et al., Long-tailed Instance Segmentation using Gumbel Optimized Loss, ECCV 2022)."""

from __future__ import annotations

from .base import register_activation
from .drop_loss import random_drop_weights
from .gumbel import Gumbel, gumbel_loss
from .prior_module import PriorSource
from .tail import TailClasses


@register_activation("gol")
class GOL(TailClasses, Gumbel):
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

    deterministic = False
    _name = "gol"

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
        self.set_tail(threshold, tail_groups)

    def loss(self, logits, gt_classes, roi_weight=None):
        self._check(logits, roi_weight)
        logits = self._of_classes(logits)
        return gumbel_loss(logits, gt_classes, random_drop_weights(logits, gt_classes, self.tail, roi_weight))
