"""Federated loss (Zhou et al., Probabilistic Two-Stage Detection, 2021; Detectron2's ``USE_FED_LOSS``)."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ..priors import ClassPrior
from ..utils.errors import InputError
from .base import full_precision, register_activation
from .prior_module import PriorSource
from .sigmoid import Sigmoid, sigmoid_loss


def federated_classes(gt_classes: Tensor, class_weight: Tensor, classes_per_batch: int) -> Tensor:
    """
    Classes whose losses count in a batch: those of the RoIs, and others drawn at random until there are enough.

    The background is one of them where a RoI is background, as in Detectron2. The draws are those of
    ``torch.multinomial`` without replacement: exponential noise divides the weights, and the largest quotients are
    taken. They are made here because ``torch.unique`` and ``torch.multinomial`` wait for a GPU.

    Args:
        gt_classes: (R,) int64 in 0..K, K for background.
        class_weight: (K,) float32 >= 0, the rates at which classes are drawn; a class of weight 0 is not drawn.
        classes_per_batch: number of classes to reach, if that many have a weight.

    Returns:
        (K,) bool.
    """
    num_classes = len(class_weight)
    kept = torch.zeros(num_classes + 1, dtype=torch.bool, device=gt_classes.device).scatter(0, gt_classes, True)
    weight = class_weight.new_zeros(num_classes + 1)
    weight[:num_classes] = class_weight
    weight = weight.masked_fill(kept, 0)
    quotients = weight / torch.empty_like(weight).exponential_()
    rank = quotients.argsort(descending=True).argsort()
    drawn = (rank < classes_per_batch - kept.sum()) & (weight > 0)
    return (kept | drawn)[:num_classes]


@register_activation("federated")
class Federated(Sigmoid):
    """
    Sigmoids of which each batch trains some: those of the classes of its RoIs, and other classes drawn at random.

    LVIS is a federated dataset: an image without objects of a class may contain objects of that class that are not
    annotated. A class that is not in the batch is therefore not used as a negative in most batches. Classes are drawn
    at rates proportional to ``image_count ** power``, from torch's random generator of the logits' device, in each
    process for its own RoIs.

    With the same state of the generator, the loss equals that of Detectron2's ``FastRCNNOutputLayers`` with
    ``USE_SIGMOID_CE`` and ``USE_FED_LOSS``. Detectron2 has no initial bias: ``prior_probability`` 0.5.

    Args:
        num_classes: K.
        prior: the training set's :class:`ClassPrior`.
        background: as in :class:`.base.Activation`.
        classes_per_batch: number of classes whose losses count, at least. The background counts as one of them where a
            RoI is background. A batch with more classes keeps them all. With K+1 or more, this is the plain sigmoid,
            except that classes without images have no negatives.
        power: exponent of the image counts; 0 draws all classes at the same rate.
        prior_probability: as in :class:`Sigmoid`.

    Raises:
        InputError: for a ``classes_per_batch`` below 1, or a ``power`` that is negative or not finite.
    """

    needs_prior = True
    deterministic = False
    neutral_at_uniform_counts = False  # classes are left out for any counts

    def __init__(
        self,
        num_classes: int,
        prior: PriorSource = None,
        background: bool = True,
        *,
        classes_per_batch: int = 50,
        power: float = 0.5,
        prior_probability: float = 0.001,
    ):
        super().__init__(num_classes, prior, background, prior_probability=prior_probability)
        if isinstance(classes_per_batch, bool) or not isinstance(classes_per_batch, int) or classes_per_batch < 1:
            raise InputError(
                f"classes_per_batch of federated is {classes_per_batch!r}; it must be a number of classes, such as 50."
            )
        if not 0 <= power < math.inf:
            raise InputError(f"power of federated is {power}; it must be 0 (equal rates) or more, such as 0.5.")
        self.classes_per_batch, self.power = classes_per_batch, power

    @property
    def class_weight(self) -> Tensor:
        """(K,) float32, proportional to the rates at which classes are drawn; 0 for classes without images."""
        return self.from_prior("class_weight", self._class_weight)

    def _class_weight(self, prior: ClassPrior) -> Tensor:
        # A count of 0 stays 0, as in Detectron2.
        counts = np.where(prior.image_count > 0, prior.class_counts(), 0.0)
        return torch.as_tensor(counts, dtype=torch.float32) ** self.power

    def loss(self, logits, gt_classes, roi_weight=None):
        self._check(logits, roi_weight)
        logits = self.class_logits(full_precision(logits))
        weight = federated_classes(gt_classes, self.class_weight, self.classes_per_batch).to(logits.dtype)
        if roi_weight is not None:
            weight = weight * roi_weight[:, None]
        return sigmoid_loss(logits, gt_classes, weight)
