"""
Detectron2's box predictor with an activation and, optionally, a calibration for its classification.

Shape shorthand: R RoIs of all images together, K foreground classes, C outputs of the classifier.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import torch
from detectron2.config import configurable
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, CascadeROIHeads
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.utils.events import get_event_storage
from torch import nn

from ..activations import Activation, build_activation
from ..calibration import Calibration, build_calibration, calibration_class
from ..calibration.base import check_fits, check_saved_files, corrects_twice, with_saved_files
from ..data.training_prior import class_prior_from_config
from ..priors import ClassPrior
from ..utils.errors import InputError
from ..utils.keyword_options import chosen_options
from ..utils.once import once
from .box_selection import EncodedBoxes, fast_rcnn_inference

logger = logging.getLogger(__name__)


class ActivationOutputLayers(FastRCNNOutputLayers):
    """
    ``FastRCNNOutputLayers`` whose classifier, classification loss and scores are those of an :class:`Activation`.

    Box regression and detections are Detectron2's, and so are the classifier's parameters, names and shapes, unless the
    activation has another classifier.

    Args:
        activation: with the same number of classes as this predictor.
        calibration: replaces the activation's scores; None for the activation's.
        **kwargs: as for ``FastRCNNOutputLayers``, without those of its losses.

    Raises:
        InputError: for ``use_sigmoid_ce`` or ``use_fed_loss``, as the loss is that of the activation.
    """

    cls_score: Any  # usually an nn.Linear

    @configurable
    def __init__(self, *, activation: Activation, calibration: Calibration | None = None, **kwargs):
        for name, remedy in (("use_fed_loss", "Federated"), ("use_sigmoid_ce", "Sigmoid")):
            if kwargs.get(name):
                raise InputError(
                    f"{name} is True, but the loss is that of the activation; use the activation {remedy}."
                )
        super().__init__(**kwargs)
        self.activation = activation
        self.calibration = calibration
        with torch.no_grad():
            if self._keeps_linear_classifier():
                activation.init_bias_(self.cls_score.get_parameter("bias"))
            else:
                with torch.random.fork_rng(devices=[]):  # all other weights start as with any activation
                    self.cls_score: nn.Module = activation.classifier(self.bbox_pred.in_features)

    def _keeps_linear_classifier(self) -> bool:
        """Whether Detectron2's classifier, with its initial weights, is that of the activation."""
        is_default = type(self.activation).classifier is Activation.classifier
        return is_default and self.activation.num_outputs == self.num_classes + 1

    @classmethod
    def from_config(cls, cfg, input_shape, **kwargs):
        for key in ("USE_FED_LOSS", "USE_SIGMOID_CE"):
            if cfg.MODEL.ROI_BOX_HEAD[key]:
                raise InputError(
                    f"MODEL.ROI_BOX_HEAD.{key} is True, but the loss is that of MODEL.ROI_BOX_HEAD.ACTIVATION.NAME "
                    f"({cfg.MODEL.ROI_BOX_HEAD.ACTIVATION.NAME}); set it to False."
                )
        return {
            **super().from_config(cfg, input_shape),
            "activation": activation_from_config(cfg),
            "calibration": calibration_from_config(cfg),
            **kwargs,
        }

    def losses(self, predictions, proposals):
        """
        Args:
            predictions: logits (R, C) and box deltas (R, 4K) or (R, 4), from :meth:`forward`.
            proposals: one ``Instances`` per image with ``proposal_boxes``, ``gt_classes`` and, if the image has
                objects, ``gt_boxes``.

        Returns:
            {"loss_cls": scalar, "loss_box_reg": scalar}
        """
        logits, deltas = predictions
        gt_classes = torch.cat([p.gt_classes for p in proposals])
        proposal_boxes = torch.cat([p.proposal_boxes.tensor for p in proposals])
        # An image without objects has no gt_boxes; its RoIs are background, whose boxes are not regressed.
        gt_boxes = torch.cat([(p.gt_boxes if p.has("gt_boxes") else p.proposal_boxes).tensor for p in proposals])
        losses = {
            "loss_cls": self._classification_loss(logits, gt_classes),
            "loss_box_reg": self.box_reg_loss(proposal_boxes, gt_boxes, deltas, gt_classes),
        }
        return {name: loss * self.loss_weight.get(name, 1.0) for name, loss in losses.items()}

    def classification_losses(self, features, gt_classes, roi_weight=None):
        """
        Only the classification part of :meth:`losses`.

        Args:
            features: (R, D) float32, the box head's output.
            gt_classes: (R,) int64 in 0..K.
            roi_weight: (R,) weight of each RoI's loss, or None for 1.

        Returns:
            {"loss_cls": scalar}
        """
        with torch.autocast(features.device.type, enabled=False):
            logits = self.cls_score(features)
        loss = self._classification_loss(logits, gt_classes, roi_weight)
        return {"loss_cls": loss * self.loss_weight.get("loss_cls", 1.0)}

    def _classification_loss(self, logits, gt_classes, roi_weight=None):
        self._check_logits(logits)
        self._log_statistics(logits, gt_classes)
        self.activation.record(logits, gt_classes)
        loss = self.activation.loss(logits, gt_classes, roi_weight)
        if loss.ndim:
            raise InputError(
                f"{type(self.activation).__name__}.loss returned shape {tuple(loss.shape)}; it must be a scalar."
            )
        return loss

    def _check_logits(self, logits):
        if logits.shape[1] != self.activation.num_outputs:
            raise InputError(
                f"The classifier of {type(self.activation).__name__} has {logits.shape[1]} outputs, but its "
                f"num_outputs is {self.activation.num_outputs}; make them equal."
            )

    def scores(self, logits):
        """(R, C) logits to (R, K+1) test-time scores: calibrated, if there is a calibration."""
        self._check_logits(logits)
        if self.calibration is None:
            scores = self.activation.scores(logits)
        else:
            scores = self.calibration.scores(self.activation, logits)
        if scores.shape != (expected := (len(logits), self.num_classes + 1)):
            method = self.calibration or self.activation
            raise InputError(
                f"{type(method).__name__}.scores returned shape {tuple(scores.shape)}; it must be (R, K+1), which is "
                f"{expected} here."
            )
        return scores

    def predict_probs(self, predictions, proposals):
        """
        Returns:
            list[Tensor]: per image, (R_i, K+1) test-time scores.
        """
        logits, _ = predictions
        return self.scores(logits).split([len(p) for p in proposals])

    def inference(self, predictions, proposals):
        """
        Detectron2's detections; boxes that can't be among them are neither decoded nor suppressed.

        Args:
            predictions: logits (R, C) and box deltas (R, 4K) or (R, 4), from :meth:`forward`.
            proposals: one ``Instances`` per image with ``proposal_boxes``.

        Returns:
            ``Instances`` per image, and the RoIs of the detections, as :func:`.box_selection.fast_rcnn_inference`.
        """
        return fast_rcnn_inference(
            self._boxes_to_select(predictions, proposals),
            self.predict_probs(predictions, proposals),
            [p.image_size for p in proposals],
            self.test_score_thresh,
            self.test_nms_thresh,
            self.test_topk_per_image,
        )

    def _boxes_to_select(self, predictions, proposals):
        if not isinstance(self.box2box_transform, Box2BoxTransform):
            return self.predict_boxes(predictions, proposals)
        deltas = predictions[1].split([len(p) for p in proposals])
        boxes = [p.proposal_boxes.tensor for p in proposals]
        return [EncodedBoxes(self.box2box_transform, *image) for image in zip(deltas, boxes)]

    @torch.no_grad()
    def _log_statistics(self, logits, gt_classes):
        """Accuracy among the foreground classes; Detectron2's metric includes the unused background output."""
        foreground = gt_classes < self.num_classes
        storage = get_event_storage()
        storage.put_scalar("roi_head/num_foreground", foreground.sum())
        right = (self.activation.class_logits(logits).argmax(dim=1) == gt_classes) & foreground
        storage.put_scalar("fast_rcnn/fg_cls_accuracy", right.sum() / foreground.sum().clamp(min=1))


def activation_from_config(cfg) -> Activation:
    """
    The activation of ``MODEL.ROI_BOX_HEAD.ACTIVATION``: ``NAME``, with the options under its name in capitals.

    The class prior is looked up when a loss needs it, so that evaluation and prediction don't.

    Raises:
        InputError: for an unknown name or an invalid option.
    """
    node = cfg.MODEL.ROI_BOX_HEAD.ACTIVATION
    prior = functools.partial(prior_source(cfg), False)
    options: dict[str, Any] = chosen_options(node, node.NAME)
    return build_activation(node.NAME, cfg.MODEL.ROI_HEADS.NUM_CLASSES, prior, **options)


def check_classification(cfg, training: bool) -> None:
    """
    Check the activation and the calibration of a config, including the class prior if it is needed.

    Args:
        training: whether losses will be computed.

    Raises:
        InputError: for an unknown name, an invalid option, a class prior that is missing or doesn't fit, or a file of
            the calibration that is of another checkpoint or other classes.
    """
    activation, calibration = activation_from_config(cfg), calibration_from_config(cfg)
    if training:
        activation.prepare()
    if calibration is not None:
        check_calibration(cfg, calibration, activation)


def check_calibration(cfg, calibration: Calibration, activation: Activation) -> None:
    """
    Check what a calibration reads: the class prior, if it is needed, and its files.

    Files next to the checkpoint state its SHA-256, so the checkpoint is read once; call this in one process of a job.

    Args:
        cfg: with the checkpoint and registered datasets.
        calibration: from :func:`calibration_from_config`.
        activation: from :func:`activation_from_config`.

    Raises:
        InputError: if the class prior is missing or doesn't fit, or if a file is of another checkpoint or other classes
            than those of ``DATASETS.TEST``.
    """
    calibration.prepare(activation)
    check_saved_files(calibration, cfg.MODEL.WEIGHTS)
    for name in cfg.DATASETS.TEST:
        if name in DatasetCatalog and (class_names := MetadataCatalog.get(name).get("thing_classes")):
            calibration.check_classes(class_names, f"dataset {name!r}")


def prepare_losses(model) -> None:
    """Let the activations of a model read the class prior before training, if they need it."""
    for module in model.modules():
        if isinstance(module, Activation):
            module.prepare()


def calibration_from_config(cfg, prior: Callable[[bool], ClassPrior] | None = None) -> Calibration | None:
    """
    The calibration of ``MODEL.ROI_BOX_HEAD.CALIBRATION``, as :func:`activation_from_config`; None if ``NAME`` is empty.

    Args:
        prior: returns the class prior, with fractal dimensions if its argument is True; None for that of the config.

    Raises:
        InputError: for an unknown name, an invalid option, or a calibration that doesn't fit the activation or the
            heads.
    """
    box_head, heads = cfg.MODEL.ROI_BOX_HEAD, cfg.MODEL.ROI_HEADS.NAME
    name = box_head.CALIBRATION.NAME
    if not name:
        return None
    check_fits(name, box_head.ACTIVATION.NAME)
    if corrects_twice(name, box_head.ACTIVATION.NAME):
        _report_double_correction(name, box_head.ACTIVATION.NAME)
    kind = calibration_class(name)
    if (
        kind.of_one_classifier
        and heads in ROI_HEADS_REGISTRY
        and issubclass(ROI_HEADS_REGISTRY.get(heads), CascadeROIHeads)
    ):
        raise InputError(
            f"Calibration {name!r} can't be combined with MODEL.ROI_HEADS.NAME {heads!r}: its file is of one "
            "classifier, and the heads have one per stage; choose another calibration, or none."
        )
    options = with_saved_files(name, chosen_options(box_head.CALIBRATION, name), cfg.MODEL.WEIGHTS)
    prior = prior or prior_source(cfg)
    return build_calibration(
        name, cfg.MODEL.ROI_HEADS.NUM_CLASSES, functools.partial(prior, kind.needs_boxes), **options
    )


@once
def _report_double_correction(name: str, activation_name: str) -> None:
    logger.warning(
        "Calibration %s uses the class prior, and the training loss of activation %s has corrected for it already: "
        "rare classes are favoured twice. Calibrate a model that was trained with a plain loss, or without the prior.",
        name, activation_name,
    )  # fmt: skip


def prior_source(cfg) -> Callable[[bool], ClassPrior]:
    """A function that returns the class prior of a config, with fractal dimensions if its argument is True."""
    # Of a config's clone, as the prior may be looked up after the config has changed.
    return functools.partial(class_prior_from_config, cfg.clone())
