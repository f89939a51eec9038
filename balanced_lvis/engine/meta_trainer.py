"""Training of a classifier with meta-learned class weights (BALMS)."""

from __future__ import annotations

import os
from collections.abc import Iterator

import torch
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import Tensor

from ..meta import MetaReweighter
from ..priors import ClassPrior
from ..utils.io import write_json
from ..utils.random_state import RandomState, seed_of
from .step import StepTrainer

_META = 1  # tells the random numbers of meta batches from those of the others
CLASS_WEIGHTS = "class_weights.json"
LOG_PERIOD = 20  # iterations, as Detectron2 writes its metrics


class MetaTrainer(StepTrainer):
    """
    A trainer whose step is preceded by one of the class weights.

    A step computes the features of its batch and of a class-balanced meta batch once, learns the weights by looking one
    step of the classifier ahead, and then trains the classifier with them. Meta batches have a random state of their
    own: with weights that stay equal (``SOLVER.META.LR`` 0), training is bit for bit what it is without them.

    Over several processes, each takes the inner step on its own RoIs, and the gradients of the weights are averaged.

    Args:
        model: a :class:`balanced_lvis.modeling.DecoupledRCNN`, or that in DistributedDataParallel.
        data_loader: a :class:`balanced_lvis.data.loader.MetaTrainLoader`.
        optimizer: of the classifier.
        reweighter: learns the weights.
        prior: of the training set, for names and groups in what is logged and saved.
        inner_lr: of the look ahead; 0 for the optimizer's current one.
        **options: of :class:`balanced_lvis.engine.step.StepTrainer`; ``autocast`` is for all below the classifier.
    """

    def __init__(
        self, model, data_loader, optimizer, *, reweighter: MetaReweighter, prior: ClassPrior, inner_lr: float = 0.0,
        **options,
    ):  # fmt: skip
        super().__init__(model, data_loader, optimizer, **options)
        self.reweighter = reweighter
        self.prior = prior
        self.inner_lr = inner_lr
        self._groups = {group: torch.from_numpy(prior.groups() == group) for group in sorted(set(prior.groups()))}
        self._meta_iter: Iterator | None = None

    def _make_scaler(self):
        """None: gradients are the classifier's alone, which are computed in float32."""

    def losses(self, batch):
        """Those of the classifier, with the weights that a step of their own has just learned."""
        inputs = self._classifier_inputs(batch)
        with self._meta_random():
            meta_inputs = self._classifier_inputs(self._next_meta_batch())
        inner_lr = self.inner_lr or self.optimizer.param_groups[0]["lr"]
        classifier = self.bare_model.classifier
        meta_loss = self.reweighter.step(classifier, inputs[:2], meta_inputs[:2], inner_lr, average=_average)
        with torch.no_grad():
            weight = self.reweighter.weights(inputs.gt_classes)
        self._log_weights(meta_loss)
        return self.model(inputs._replace(roi_weight=weight))

    def _classifier_inputs(self, batch):
        with torch.autocast(self._device, dtype=self.autocast, enabled=self.autocast is not None):
            return self.bare_model.classifier_inputs(batch)

    def _meta_random(self) -> RandomState:
        """Anew in every iteration, so that a resumed run draws what an undisturbed one does."""
        return RandomState(seed_of(torch.initial_seed(), self.iter, _META))

    def _next_meta_batch(self):
        if self._meta_iter is None:
            self._meta_iter = iter(self.data_loader.meta)
        return self.on_device(next(self._meta_iter))

    def _log_weights(self, meta_loss: Tensor) -> None:
        if self.iter >= LOG_PERIOD and (self.iter + 1) % LOG_PERIOD:  # a GPU has to be waited for
            return
        storage = get_event_storage()
        storage.put_scalar("meta/loss", meta_loss)
        weights = self.reweighter.weights.values().cpu()
        for group, inside in self._groups.items():
            storage.put_scalar(f"meta/weight_{group}", weights[inside].mean())

    def save_class_weights(self, output_dir: str | os.PathLike) -> None:
        """Write the learned weights, by class, to ``class_weights.json``."""
        columns = zip(
            self.prior.class_names, self.prior.image_count.tolist(), self.prior.groups().tolist(),
            self.reweighter.weights.values().tolist(),
        )  # fmt: skip
        rows = [dict(zip(("name", "image_count", "group", "weight"), row)) for row in columns]
        write_json(os.path.join(output_dir, CLASS_WEIGHTS), rows, indent=1)

    def state_dict(self):
        """The trainer's, and the weights' beside it."""
        return {**super().state_dict(), "meta": self.reweighter.state_dict()}

    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict)
        self.reweighter.load_state_dict(state_dict["meta"])


def _average(gradient: Tensor) -> Tensor:
    """Mean over processes."""
    if comm.get_world_size() > 1:
        torch.distributed.all_reduce(gradient)
        gradient /= comm.get_world_size()
    return gradient
