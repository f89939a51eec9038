"""Class-balanced weighting: softmax cross entropy weighted by inverse class frequency."""

from __future__ import annotations

from .base import register_activation
from .prior_module import PriorSource
from .weighted_softmax import WeightedSoftmax, inverse_frequency_weights


@register_activation("class_balanced_weighting")
class ClassBalancedWeighting(WeightedSoftmax):
    """
    Softmax whose cross entropy has the weight w_j = K / n_j / sum_i 1 / n_i for class j, so that the mean is 1.

    The baseline "CBW" of Ren et al. (NeurIPS 2020).

    Args:
        num_classes: K.
        prior: the training set's :class:`~balanced_lvis.priors.ClassPrior`.
        background: as in :class:`.base.Activation`; the background has weight 1.
        count: "image" or "instance", what n_j counts.
        drw_start: number of updates before the weights apply (deferred re-weighting): 0 for weights from the start, -1
            for none.
        reduction: "weighted_mean" divides by the sum of the weights of the batch, as torch's ``cross_entropy`` with
            weights and the code of LDAM-DRW; "mean" divides by R.

    Raises:
        InputError: for an invalid option.
    """

    def __init__(
        self,
        num_classes: int,
        prior: PriorSource = None,
        background: bool = True,
        *,
        count: str = "image",
        drw_start: int = 0,
        reduction: str = "weighted_mean",
    ):
        super().__init__(num_classes, prior, background, count=count, drw_start=drw_start, reduction=reduction)

    def weights_of_classes(self, prior):
        return inverse_frequency_weights(prior, self.count)
