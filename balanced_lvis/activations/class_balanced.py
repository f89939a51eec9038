"""Class-Balanced loss (Cui et al., Class-Balanced Loss Based on Effective Number of Samples, CVPR 2019)."""

from __future__ import annotations

from .base import register_activation
from .prior_module import PriorSource
from .weighted_softmax import WeightedSoftmax, check_beta, check_mean, effective_number_weights


@register_activation("class_balanced")
class ClassBalanced(WeightedSoftmax):
    """
    Softmax whose cross entropy has the weight of the inverse effective number of samples.

    w_j is proportional to 1 / E_j = (1 - beta) / (1 - beta^n_j), with a mean of 1 over the classes.

    Most samples are of classes with small weights. In a detector, whose background has weight 1, foreground RoIs would
    then count for much less than background RoIs: on LVIS-1.0 with beta = 0.9999, for a fortieth. With ``mean_over``
    "samples", they have the weight of the background on average, and weights only balance the classes.

    Args:
        num_classes: K.
        prior: the training set's :class:`~balanced_lvis.priors.ClassPrior`.
        background: as in :class:`.base.Activation`; the background has weight 1.
        beta: in [0, 1). 0 gives equal weights. As beta approaches 1, the weights approach those of
            :class:`~balanced_lvis.activations.ClassBalancedWeighting`.
        gamma: focusing parameter of a focal loss on the softmax; 0 for the cross entropy.
        count: "image" or "instance", what n_j counts.
        drw_start: number of updates before the weights apply (deferred re-weighting): 0 for weights from the start, -1
            for none.
        reduction: "mean" divides by R, as the authors' code; "weighted_mean" by the sum of the weights of the batch, as
            the code of LDAM-DRW.
        mean_over: "classes" for weights with a mean of 1 over the classes, as the paper; "samples" for a mean of 1 over
            the training samples.

    Raises:
        InputError: for an invalid option.
    """

    def __init__(
        self,
        num_classes: int,
        prior: PriorSource = None,
        background: bool = True,
        *,
        beta: float = 0.9999,
        gamma: float = 0.0,
        count: str = "image",
        drw_start: int = 0,
        reduction: str = "mean",
        mean_over: str = "classes",
    ):
        super().__init__(
            num_classes, prior, background, count=count, drw_start=drw_start, reduction=reduction, gamma=gamma
        )
        self.beta, self.mean_over = check_beta(beta), check_mean(mean_over)

    def weights_of_classes(self, prior):
        return effective_number_weights(prior, self.beta, self.count, self.mean_over)
