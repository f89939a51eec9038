"""
Meta re-weighting: the form of the Meta Sampler for detectors, whose images contain many classes.

Shape shorthand: R RoIs, K foreground classes, C outputs of the classifier; index K stands for background.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..activations import Activation
from ..utils.errors import InputError
from .inner_step import one_step_ahead


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


class MetaReweighter:
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
        if not lr >= 0:
            raise InputError(f"SOLVER.META.LR is {lr}; it must be 0 (fixed weights) or more.")
        self.activation = activation
        self.weights = ClassWeights(activation.num_classes).to(device)
        self.optimizer = torch.optim.Adam(self.weights.parameters(), lr=lr)

    def outer_loss(
        self, classifier: nn.Module, batch: tuple[Tensor, Tensor], meta_batch: tuple[Tensor, Tensor], inner_lr: float
    ) -> Tensor:
        """
        Args:
            classifier: (R, D) features to (R, C) logits. Not changed.
            batch: features (R, D) and gt_classes (R,) of the training batch.
            meta_batch: the same for the class-balanced batch.
            inner_lr: learning rate of the inner step.

        Returns:
            scalar, differentiable in psi through the inner step.
        """
        features, gt_classes = batch

        def inner_loss(parameters):
            logits = functional_call(classifier, parameters, (features,))
            return self.activation.loss(logits, gt_classes, self.weights(gt_classes))

        ahead = one_step_ahead(classifier, inner_loss, inner_lr)
        meta_features, meta_classes = meta_batch
        return self.activation.unshifted_loss(functional_call(classifier, ahead, (meta_features,)), meta_classes)

    def step(
        self,
        classifier: nn.Module,
        batch: tuple[Tensor, Tensor],
        meta_batch: tuple[Tensor, Tensor],
        inner_lr: float,
        average: Callable[[Tensor], Tensor] = lambda gradient: gradient,
    ) -> Tensor:
        """
        Update psi once; further arguments as for :meth:`outer_loss`.

        Args:
            average: mean of a gradient over processes, so that all have the same psi: each makes its own inner step.

        Returns:
            scalar, the outer loss before the update.
        """
        loss = self.outer_loss(classifier, batch, meta_batch, inner_lr)
        (gradient,) = torch.autograd.grad(loss, [self.weights.psi])
        self.weights.psi.grad = average(gradient)
        if self.weights.psi.grad.isfinite().all():  # one bad batch must not destroy all weights
            self.optimizer.step()
        return loss.detach()

    def state_dict(self) -> dict:
        """psi and Adam's state."""
        return {"weights": self.weights.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """Restore what :meth:`state_dict` returned; the learning rate stays the configured one."""
        self.weights.load_state_dict(state["weights"])
        lr = self.optimizer.param_groups[0]["lr"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.optimizer.param_groups[0]["lr"] = lr
