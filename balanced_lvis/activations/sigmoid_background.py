"""K+1 independent sigmoids, of which the last one is the background's."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import full_precision, register_activation
from .sigmoid import Sigmoid, sigmoid_loss, weight_rows


@register_activation("sigmoid_background")
class SigmoidBackground(Sigmoid):
    """
    Sigmoids of which the background has one too: the score of class j is sigmoid(z_j) (1 - sigmoid(z_bg)).

    The sigmoid of the background, of which background RoIs are the positives, tells objects from background, so that
    those of the classes needn't. This is the form of Equalization Loss v2 and BACL. Without background, as in image
    classification, it is :class:`Sigmoid`.

    Args:
        num_classes: K.
        prior: not used.
        background: as in :class:`.base.Activation`.
        prior_probability: initial score of every class and of the background, set by the classifier's bias.
    """

    family = "sigmoid_background"

    def loss(self, logits, gt_classes, roi_weight=None):
        self._check(logits, roi_weight)
        return sigmoid_loss(full_precision(logits), gt_classes, weight_rows(roi_weight))

    def unshifted_loss(self, logits, gt_classes):
        return SigmoidBackground.loss(self, logits, gt_classes)  # subclasses override loss(), not the scores

    def scores(self, logits):
        self._check(logits)
        logits = full_precision(logits)
        scores = logits.sigmoid()
        return self._objects_only(scores, logits) if self.background else scores

    def _objects_only(self, scores: Tensor, logits: Tensor) -> Tensor:
        """Those of the classes times the score of not being background."""
        background = logits[:, self.num_classes :]
        return torch.cat([self.class_logits(scores) * (-background).sigmoid(), background.sigmoid()], dim=1)
