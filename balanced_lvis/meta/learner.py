"""
Base class of what learns class weights or sampling rates from the effect of one step of a classifier.

Shape shorthand: R RoIs, or samples in image classification, K foreground classes, C outputs of the classifier.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..activations import Activation
from ..utils.errors import InputError
from .inner_step import one_step_ahead

logger = logging.getLogger(__name__)

Batch = tuple[Tensor, Tensor]  # features (R, D) and gt_classes (R,)


def unchanged(gradient: Tensor) -> Tensor:
    """The mean of a gradient over one process."""
    return gradient


class OneStepLearner:
    """
    Learns a parameter psi by looking one step of the classifier ahead.

    Inner level: one step of gradient descent on the (balanced) loss of the activation, each RoI weighted by a function
    of psi. Outer level: the unshifted loss of the resulting classifier on a class-balanced batch, minimized by Adam.

    Args:
        activation: ``loss`` is used at the inner level, ``unshifted_loss`` at the outer level.
        learned: module with the parameter ``psi``.
        lr: learning rate of Adam; 0 keeps psi as it is.

    Attributes:
        skipped: number of updates that were skipped in this process, as the gradient was not finite.

    Raises:
        InputError: if ``lr`` is negative.
    """

    def __init__(self, activation: Activation, learned: nn.Module, lr: float):
        if not lr >= 0:
            raise InputError(f"SOLVER.META.LR is {lr}; it must be 0 (fixed weights) or more.")
        self.skipped = 0
        self.activation = activation
        self._learned = learned
        self.optimizer = torch.optim.Adam(learned.parameters(), lr=lr)

    def _outer_loss(
        self, classifier: nn.Module, batch: Batch, roi_weight: Tensor, meta_batch: Batch, inner_lr: float
    ) -> Tensor:
        """Scalar, differentiable in ``roi_weight`` (R,) through the inner step. The classifier is not changed."""
        features, gt_classes = batch

        def inner_loss(parameters):
            logits = functional_call(classifier, parameters, (features,))
            return self.activation.loss(logits, gt_classes, roi_weight)

        ahead = one_step_ahead(classifier, inner_loss, inner_lr)
        meta_features, meta_classes = meta_batch
        return self.activation.unshifted_loss(functional_call(classifier, ahead, (meta_features,)), meta_classes)

    def _update(self, loss: Tensor, average: Callable[[Tensor], Tensor]) -> Tensor:
        """Update psi once from the outer loss, and return that loss, detached."""
        psi = self._learned.get_parameter("psi")
        (gradient,) = torch.autograd.grad(loss, [psi])
        psi.grad = average(gradient)
        if psi.grad.isfinite().all():  # one bad batch must not destroy all weights
            self.optimizer.step()
        else:
            self.skipped += 1
            if self.skipped == 1:
                logger.warning("A gradient of psi is not finite: its update is skipped. Later ones are only counted")
        return loss.detach()

    def state_dict(self) -> dict:
        """psi and Adam's state."""
        return {"weights": self._learned.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """Restore what :meth:`state_dict` returned; the learning rate stays the configured one."""
        self._learned.load_state_dict(state["weights"])
        lr = self.optimizer.param_groups[0]["lr"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.optimizer.param_groups[0]["lr"] = lr
