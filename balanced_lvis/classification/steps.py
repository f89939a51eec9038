"""
Training steps: all weights, or the classifier of the second stage alone.

Shape shorthand: B images, D features.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..activations import StateUpdates
from .model import ImageClassifier


class Step:
    """
    One update of the model by SGD.

    Args:
        model: trained in place.
        cfg: config.
        device: of the model.
    """

    def __init__(self, model: ImageClassifier, cfg, device: torch.device):
        self.model, self.device = model, device
        self.updates = StateUpdates(model)
        solver = cfg.SOLVER
        self.optimizer = torch.optim.SGD(
            self.trained().parameters(), solver.BASE_LR, momentum=solver.MOMENTUM, weight_decay=solver.WEIGHT_DECAY
        )

    def trained(self) -> nn.Module:
        """The module whose parameters are trained."""
        return self.model

    def start(self) -> None:
        """Set the model to training mode."""
        self.model.train()

    def features(self, images: Tensor) -> Tensor:
        """(B, D) features of a batch on the device."""
        return self.model.features(images)

    def __call__(self, batch: tuple[Tensor, Tensor], lr: float) -> Tensor:
        """
        Args:
            batch: (B, 3, H, W) uint8 images and (B,) int64 labels.
            lr: learning rate.

        Returns:
            scalar, the loss before the update, detached.
        """
        images, labels = (part.to(self.device, non_blocking=True) for part in batch)
        return self.update(self.features(images), labels, lr)

    def update(self, features: Tensor, labels: Tensor, lr: float) -> Tensor:
        """
        Args:
            features: (B, D).
            labels: (B,).
            lr: learning rate.

        Returns:
            as :meth:`__call__`.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        activation = self.model.activation
        self.updates.begin()
        logits = self.model.classifier(features)
        activation.record(logits, labels)
        loss = activation.loss(logits, labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.updates.accept()
        return loss.detach()

    def state_dict(self) -> dict:
        """What a resumed run needs besides the model."""
        return {"optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.optimizer.load_state_dict(state["optimizer"])


class ClassifierStep(Step):
    """
    The second stage of decoupled training (Kang et al., ICLR 2020): the network is frozen, its batch statistics
    included, and the classifier is trained.
    """

    def trained(self):
        for parameter in self.model.network.parameters():
            parameter.requires_grad_(False)
        return self.model.classifier

    def start(self):
        self.model.train()
        self.model.network.eval()

    @torch.no_grad()
    def features(self, images):
        return self.model.features(images)
