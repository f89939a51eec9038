"""
Meta re-weighting: the form of the Meta Sampler for detectors, whose images contain many classes.

Shape shorthand: R RoIs, K foreground classes, C outputs of the classifier; index K stands for background.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..activations import Activation
from .learner import Batch, OneStepLearner, unchanged


class ClassWeights(nn.Module):
    """
    Learned weights sigma(psi_j) of the K classes, 0.5 at the start.

    Args:
        num_classes: K.
    """

    def __init__(self, num_classes: int):
        super().__init__()
        self.psi = nn.Parameter(torch.zeros(num_classes))

    def values(self) -> Tensor:
        """(K,) weights in (0, 1)."""
        return self.psi.detach().sigmoid()

    def forward(self, gt_classes: Tensor) -> Tensor:
        """
        Weights of RoIs: sigma(psi) of a foreground RoI's class over its mean over those RoIs, 1 for background.

        Only relative weights matter, which keeps the balance of foreground and background of the unweighted loss: with
        equal psi, every weight is exactly 1. The authors' code normalizes in the same way.

        Args:
            gt_classes: (R,) int64 in 0..K.

        Returns:
            (R,), differentiable in psi.
        """
        foreground = gt_classes < len(self.psi)
        # In float64 a sum of equal float32 numbers is exact, and so is their quotient by the mean.
        weight = self.psi.sigmoid().double()[gt_classes.clamp(max=len(self.psi) - 1)]
        total = (weight * foreground).sum()
        mean = torch.where(foreground.any(), total / foreground.sum().clamp(min=1), 1.0)
        return torch.where(foreground, weight / mean, 1.0).to(self.psi.dtype)


class MetaReweighter(OneStepLearner):
    """
    Learns :class:`ClassWeights` by looking one step of the classifier ahead.

    Inner level: one step of gradient descent on the (balanced) loss of the activation, each RoI weighted by its class.
    Outer level: the unshifted loss of the resulting classifier on a class-balanced batch, minimized by Adam over psi.

    Args:
        activation: ``loss`` is used at the inner level, ``unshifted_loss`` at the outer level.
        lr: learning rate of Adam; 0 keeps all weights equal, which is training without them.
        device: device of psi.

    Raises:
        InputError: if ``lr`` is negative.
    """

    def __init__(self, activation: Activation, lr: float = 0.01, device: torch.device | str = "cpu"):
        self.weights = ClassWeights(activation.num_classes).to(device)
        super().__init__(activation, self.weights, lr)

    def outer_loss(self, classifier: nn.Module, batch: Batch, meta_batch: Batch, inner_lr: float) -> Tensor:
        """
        Args:
            classifier: (R, D) features to (R, C) logits. Not changed.
            batch: features (R, D) and gt_classes (R,) of the training batch.
            meta_batch: the same for the class-balanced batch.
            inner_lr: learning rate of the inner step.

        Returns:
            scalar, differentiable in psi through the inner step.
        """
        return self._outer_loss(classifier, batch, self.weights(batch[1]), meta_batch, inner_lr)

    def step(
        self,
        classifier: nn.Module,
        batch: Batch,
        meta_batch: Batch,
        inner_lr: float,
        average: Callable[[Tensor], Tensor] = unchanged,
    ) -> Tensor:
        """
        Update psi once; further arguments as for :meth:`outer_loss`.

        Args:
            average: mean of a gradient over processes, so that all have the same psi: each makes its own inner step.

        Returns:
            scalar, the outer loss before the update.
        """
        return self._update(self.outer_loss(classifier, batch, meta_batch, inner_lr), average)
