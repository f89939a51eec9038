"""The training step of BALMS: learns class weights by bilevel optimization, then trains the classifier with them."""

from __future__ import annotations

import os

import torch
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import Tensor

from ..data.training_prior import class_prior_from_config
from ..meta import MetaReweighter
from ..modeling.decoupled import is_second_stage
from ..priors import ClassPrior
from ..utils.errors import InputError
from ..utils.io import write_json
from ..utils.random_state import RandomState, seed_of
from .precision import autocast
from .step import BatchIterator, TrainingStep, check_shared_evenly, without_ddp

_META = 1  # separates the random numbers of meta batches from those of training batches
CLASS_WEIGHTS = "class_weights.json"
LOG_PERIOD = 20  # iterations, as Detectron2 writes its metrics


class BilevelStep(TrainingStep):
    """
    A training step that updates class weights before the classifier.

    Each step computes the features of its batch and of a class-balanced meta batch once, updates the class weights by
    looking one step of the classifier ahead, and then trains the classifier with them. Meta batches have their own
    random state: with constant weights (``SOLVER.META.LR`` 0), the training run is bit-identical to one without them.

    With several processes, each takes the inner step on its own RoIs, and the gradients of the weights are averaged.

    Args:
        model: a :class:`balanced_lvis.modeling.DecoupledRCNN`; may be wrapped in ``DistributedDataParallel``.
        data_loader: a :class:`balanced_lvis.data.loader.MetaTrainLoader`.
        optimizer: the classifier's optimizer.
        reweighter: learns the class weights.
        prior: the class prior of the training set, for the names and groups in logs and files.
        inner_lr: learning rate of the inner step; 0 for the optimizer's current learning rate.
        **options: as for :class:`balanced_lvis.engine.step.TrainingStep`; ``autocast`` applies to everything below the
            classifier, whose gradients are computed in float32.
    """

    also_trains = " and class weights"
    scales_losses = False

    def __init__(
        self, model, data_loader, optimizer, *, reweighter: MetaReweighter, prior: ClassPrior, inner_lr: float = 0.0,
        **options,
    ):  # fmt: skip
        super().__init__(model, data_loader, optimizer, **options)
        self.reweighter = reweighter
        self.prior = prior
        self.inner_lr = inner_lr
        self._groups = {group: torch.from_numpy(prior.groups() == group) for group in sorted(set(prior.groups()))}
        self._meta_batches = BatchIterator(data_loader.meta)

    @classmethod
    def options_from_config(cls, cfg, model) -> dict:
        rcnn, node = without_ddp(model), cfg.SOLVER.META
        return {
            **super().options_from_config(cfg, model),
            "reweighter": MetaReweighter(rcnn.roi_heads.box_predictor.activation, node.LR, rcnn.device),
            "prior": class_prior_from_config(cfg),
            "inner_lr": node.INNER_LR,
        }

    @classmethod
    def check(cls, cfg, world_size: int) -> None:
        """
        Check the settings of a step, in a config whose numbers are in their ranges.

        Raises:
            InputError: as for the base class; if batches are accumulated, end-to-end training is configured, or a
                learning rate is negative.
        """
        solver, meta = cfg.SOLVER, cfg.SOLVER.META
        if solver.ACCUMULATE_BATCHES > 1:
            raise InputError(
                f"SOLVER.ACCUMULATE_BATCHES is {solver.ACCUMULATE_BATCHES}, but class weights are learned from whole "
                "batches; set it to 1 when SOLVER.META.ENABLED is True. It would save little memory here."
            )
        super().check(cfg, world_size)
        check_shared_evenly("SOLVER.META.IMS_PER_BATCH", meta.IMS_PER_BATCH, world_size)
        if not is_second_stage(cfg):
            raise InputError(
                f"SOLVER.META.ENABLED is True, but MODEL.META_ARCHITECTURE is {cfg.MODEL.META_ARCHITECTURE!r}; "
                "class weights are learned in the second stage: use DecoupledRCNN, and MODEL.WEIGHTS of a first stage."
            )
        if meta.LR < 0 or meta.INNER_LR < 0:
            raise InputError(f"SOLVER.META: LR is {meta.LR} and INNER_LR {meta.INNER_LR}; they must be 0 or more.")

    @classmethod
    def class_balanced_images(cls, cfg) -> int:
        return cfg.SOLVER.META.IMS_PER_BATCH or cfg.SOLVER.IMS_PER_BATCH

    def losses(self, batch):
        """The classifier's losses, with class weights that were updated for this batch."""
        inputs = self._classifier_inputs(batch)
        with self._meta_random():
            meta_inputs = self._classifier_inputs(self.on_device(next(self._meta_batches)))
        inner_lr = self.inner_lr or self.optimizer.param_groups[0]["lr"]
        classifier = self.bare_model.classifier
        meta_loss = self.reweighter.step(classifier, inputs[:2], meta_inputs[:2], inner_lr, average=_average)
        with torch.no_grad():
            weight = self.reweighter.weights(inputs.gt_classes)
        self._log_weights(meta_loss)
        return self.model(inputs._replace(roi_weight=weight))

    def validation_losses(self, batch):
        """The classifier's losses with the current class weights."""
        inputs = self._classifier_inputs(batch)
        return self.bare_model(inputs._replace(roi_weight=self.reweighter.weights(inputs.gt_classes)))

    def close(self) -> None:
        super().close()
        self._meta_batches.close()

    def save_results(self, folder: str | os.PathLike) -> None:
        """Write the learned weight of each class to ``class_weights.json``."""
        columns = zip(
            self.prior.class_names, self.prior.image_count.tolist(), self.prior.groups().tolist(),
            self.reweighter.weights.values().tolist(),
        )  # fmt: skip
        rows = [dict(zip(("name", "image_count", "group", "weight"), row)) for row in columns]
        write_json(os.path.join(folder, CLASS_WEIGHTS), rows, indent=1)

    def state_dict(self) -> dict:
        """The state of the base class, and of the class weights."""
        return {**super().state_dict(), "meta": self.reweighter.state_dict()}

    def load_state_dict(self, state_dict: dict) -> None:
        super().load_state_dict(state_dict)
        self.reweighter.load_state_dict(state_dict["meta"])

    def _classifier_inputs(self, batch):
        with autocast(self._device, self.autocast):
            return self.bare_model.classifier_inputs(batch)

    def _meta_random(self) -> RandomState:
        """Seeded in each iteration, so that a resumed run draws the same numbers as an uninterrupted one."""
        return RandomState(seed_of(torch.initial_seed(), self.iter, _META))

    def _log_weights(self, meta_loss: Tensor) -> None:
        if self.iter >= LOG_PERIOD and (self.iter + 1) % LOG_PERIOD:  # reading the weights makes the host wait
            return
        storage = get_event_storage()
        storage.put_scalar("meta/loss", meta_loss)
        weights = self.reweighter.weights.values().cpu()
        for group, inside in self._groups.items():
            storage.put_scalar(f"meta/weight_{group}", weights[inside].mean())


def _average(gradient: Tensor) -> Tensor:
    """The mean over processes."""
    if comm.get_world_size() > 1:
        torch.distributed.all_reduce(gradient)
        gradient /= comm.get_world_size()
    return gradient
