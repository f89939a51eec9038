"""
Training steps: all weights, the classifier of the second stage alone, or it and the rates of the Meta Sampler.

Shape shorthand: B images, D features, K classes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ..activations import StateUpdates
from ..meta import MetaSampler, RateLearner
from ..utils.errors import InputError
from ..utils.random_state import seed_of
from .data.batches import BatchLoader, training_batches
from .model import ImageClassifier
from .samplers import SAMPLERS, ClassBalancedSampler, images_by_class

logger = logging.getLogger(__name__)

# Keys of random streams of the Meta Sampler, as in samplers.py.
_RATES, _META_BATCHES = 5, 6


class Step:
    """
    One update of the model by SGD.

    Args:
        model: trained in place.
        cfg: config.
        load: loads training images.
        device: of the model.

    Raises:
        InputError: for an unknown sampler, or an invalid option.
    """

    def __init__(self, model: ImageClassifier, cfg, load: BatchLoader, device: torch.device):
        self.model, self.cfg, self.load, self.device = model, cfg, load, device
        self.sampler = SAMPLERS.build(
            cfg.DATALOADER.SAMPLER_TRAIN, load.labels, load.num_classes, cfg.SOLVER.IMS_PER_BATCH, cfg.SEED
        )
        self.updates = StateUpdates(model)
        self.freeze()
        solver = cfg.SOLVER
        self.optimizer = torch.optim.SGD(
            self.trained().parameters(), solver.BASE_LR, momentum=solver.MOMENTUM, weight_decay=solver.WEIGHT_DECAY
        )

    def freeze(self) -> None:
        """Exclude parameters that are not trained from gradients; here, none."""

    def trained(self) -> nn.Module:
        """The module whose parameters are trained."""
        return self.model

    def start(self) -> None:
        """Set the model to training mode."""
        self.model.train()

    def features(self, images: Tensor) -> Tensor:
        """(B, D) features of images on the device."""
        return self.model.features(images)

    def batches(self, start: int, end: int) -> Iterator:
        """What :meth:`__call__` takes in the iterations ``start`` to ``end - 1``."""
        workers, pin = self.cfg.DATALOADER.NUM_WORKERS, self.device.type == "cuda"
        return training_batches(self.load, self.sampler, start, end, workers, pin)

    def __call__(self, batch, lr: float) -> Tensor:
        """
        Args:
            batch: from :meth:`batches`: (B, 3, H, W) uint8 images and (B,) int64 labels.
            lr: learning rate.

        Returns:
            scalar, the loss before the update, detached.
        """
        return self.update(*self.inputs(batch), lr)

    def inputs(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """(B, D) features and (B,) labels of a batch, on the device."""
        images, labels = (part.to(self.device, non_blocking=True) for part in batch)
        return self.features(images), labels

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

    def freeze(self):
        for parameter in self.model.network.parameters():
            parameter.requires_grad_(False)

    def trained(self):
        return self.model.classifier

    def start(self):
        self.model.train()
        self.model.network.eval()

    @torch.no_grad()
    def features(self, images):
        return self.model.features(images)


class MetaStep(ClassifierStep):
    """
    The second stage of Balanced Meta-Softmax: the sampling rates of classes are learned with the classifier.

    Rates start at the class frequencies, as in the authors' code: instance-balanced sampling. Batches are drawn at the
    rates and loaded in this process, as each depends on the update before: ``DATALOADER.SAMPLER_TRAIN``
    and ``DATALOADER.NUM_WORKERS`` have no effect.

    Args:
        model, cfg, load, device: as of :class:`Step`.

    Raises:
        InputError: if a class has no training images.
    """

    def __init__(self, model: ImageClassifier, cfg, load: BatchLoader, device: torch.device):
        super().__init__(model, cfg, load, device)
        meta = cfg.SOLVER.META
        if cfg.DATALOADER.SAMPLER_TRAIN != "instance":
            logger.warning(
                "DATALOADER.SAMPLER_TRAIN %r is not used: SOLVER.META.ENABLED draws batches at learned rates.",
                cfg.DATALOADER.SAMPLER_TRAIN,
            )
        self._of_class = [found.tolist() for found in images_by_class(load.labels, load.num_classes)]
        check_no_empty_class(np.array([len(found) for found in self._of_class]))
        self.rates = MetaSampler(load.num_classes, counts=[len(found) for found in self._of_class])
        self.learner = RateLearner(model.activation, self.rates, meta.LR)
        self._meta_sampler = ClassBalancedSampler(
            load.labels,
            load.num_classes,
            meta.IMS_PER_BATCH or cfg.SOLVER.IMS_PER_BATCH,
            seed_of(cfg.SEED, _META_BATCHES),
        )

    def batches(self, start, end):
        """The iterations: each batch depends on the rates that the one before has left."""
        return iter(range(start, end))

    def __call__(self, batch, lr):
        iteration, solver = batch, self.cfg.SOLVER
        generator = torch.Generator().manual_seed(seed_of(self.cfg.SEED, _RATES, iteration))
        indices, weights = self.rates.draw(self._of_class, solver.IMS_PER_BATCH, generator)
        features, labels = self.inputs(self.load(np.array(indices), iteration))
        meta_batch = self.inputs(self.load(self._meta_sampler.indices(iteration), iteration, _META_BATCHES))
        self.learner.step(
            self.model.classifier, (features, labels), weights, meta_batch, inner_lr=solver.META.INNER_LR or lr
        )
        return self.update(features, labels, lr)

    def state_dict(self):
        return {**super().state_dict(), "meta": self.learner.state_dict()}

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.learner.load_state_dict(state["meta"])


def check_no_empty_class(counts: np.ndarray, class_names: Sequence[str] | None = None) -> None:
    """
    Args:
        counts: (K,) training images of each class.
        class_names: K names, for the message.

    Raises:
        InputError: if a class has no training images, as the Meta Sampler can't learn its rate.
    """
    if (empty := np.flatnonzero(counts == 0)).size:
        name = repr(class_names[empty[0]]) if class_names is not None else str(empty[0])
        raise InputError(
            f"SOLVER.META.ENABLED is True, but {len(empty)} of {len(counts)} classes have no training images, such as "
            f"{name}; the Meta Sampler needs images of every class. Choose a smaller DATASET.LONG_TAIL.IMBALANCE, or "
            "another method."
        )
