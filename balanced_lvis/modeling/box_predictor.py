"""
Detectron2's box predictor with its classification handed to an activation.

Shape shorthand: R RoIs of all images together, K foreground classes.
"""

from __future__ import annotations

import torch
from detectron2.config import configurable
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.utils.events import get_event_storage

from ..activations import Activation, activation_class, build_activation
from ..data.training_prior import class_prior_from_config
from ..utils.errors import InputError
from .box_selection import EncodedBoxes, fast_rcnn_inference


class ActivationOutputLayers(FastRCNNOutputLayers):
    """
    ``FastRCNNOutputLayers`` whose classification loss, scores and bias come from an :class:`Activation`.

    Parameters, their names and shapes, box regression and detections are Detectron2's own.

    Args:
        activation: its ``num_classes`` must be this predictor's.
        **kwargs: as for ``FastRCNNOutputLayers``.
    """

    @configurable
    def __init__(self, *, activation: Activation, **kwargs):
        super().__init__(**kwargs)
        self.activation = activation
        with torch.no_grad():
            activation.init_bias_(self.cls_score.bias)

    @classmethod
    def from_config(cls, cfg, input_shape, **kwargs):
        for key in ("USE_FED_LOSS", "USE_SIGMOID_CE"):
            if cfg.MODEL.ROI_BOX_HEAD[key]:
                raise InputError(
                    f"MODEL.ROI_BOX_HEAD.{key} is True, but the loss is that of MODEL.ROI_BOX_HEAD.ACTIVATION.NAME "
                    f"({cfg.MODEL.ROI_BOX_HEAD.ACTIVATION.NAME}); set it to False."
                )
        return {**super().from_config(cfg, input_shape), "activation": activation_from_config(cfg), **kwargs}

    def losses(self, predictions, proposals):
        """
        Args:
            predictions: logits (R, K+1) and box deltas (R, 4K) or (R, 4), from :meth:`forward`.
            proposals: one ``Instances`` per image with ``proposal_boxes``, ``gt_classes`` and, where the image has
                objects, ``gt_boxes``.

        Returns:
            {"loss_cls": scalar, "loss_box_reg": scalar}
        """
        logits, deltas = predictions
        gt_classes = torch.cat([p.gt_classes for p in proposals])
        proposal_boxes = torch.cat([p.proposal_boxes.tensor for p in proposals])
        # An image without objects has no gt_boxes; its RoIs are all background, whose boxes are not regressed.
        gt_boxes = torch.cat([(p.gt_boxes if p.has("gt_boxes") else p.proposal_boxes).tensor for p in proposals])
        self._log_statistics(logits, gt_classes)
        losses = {
            "loss_cls": self.activation.loss(logits, gt_classes),
            "loss_box_reg": self.box_reg_loss(proposal_boxes, gt_boxes, deltas, gt_classes),
        }
        return {name: loss * self.loss_weight.get(name, 1.0) for name, loss in losses.items()}

    def classification_losses(self, features, gt_classes, roi_weight=None):
        """
        The classification part of :meth:`losses` alone.

        Args:
            features: (R, D) float32, the box head's output.
            gt_classes: (R,) int64 in 0..K.
            roi_weight: (R,) weights of the RoIs' losses, or None for 1.

        Returns:
            {"loss_cls": scalar}
        """
        with torch.autocast(features.device.type, enabled=False):
            logits = self.cls_score(features)
        self._log_statistics(logits, gt_classes)
        loss = self.activation.loss(logits, gt_classes, roi_weight)
        return {"loss_cls": loss * self.loss_weight.get("loss_cls", 1.0)}

    def predict_probs(self, predictions, proposals):
        """
        Returns:
            list[Tensor]: per image, (R_i, K+1) test-time scores.
        """
        logits, _ = predictions
        return self.activation.scores(logits).split([len(p) for p in proposals])

    def inference(self, predictions, proposals):
        """
        Detectron2's detections, without decoding and suppressing what can't be among them.

        Args:
            predictions: logits (R, K+1) and box deltas (R, 4K) or (R, 4), from :meth:`forward`.
            proposals: one ``Instances`` per image with ``proposal_boxes``.

        Returns:
            ``Instances`` per image, and the RoIs of their detections, as :func:`.box_selection.fast_rcnn_inference`.
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
        """Accuracy among the foreground classes; Detectron2's own figure reads the unused background unit."""
        foreground = gt_classes < self.num_classes
        storage = get_event_storage()
        storage.put_scalar("roi_head/num_foreground", foreground.sum())
        right = (logits[:, :-1].argmax(dim=1) == gt_classes) & foreground
        storage.put_scalar("fast_rcnn/fg_cls_accuracy", right.sum() / foreground.sum().clamp(min=1))


def activation_from_config(cfg) -> Activation:
    """
    The activation that ``MODEL.ROI_BOX_HEAD.ACTIVATION`` names, with the options under its name in capitals.

    Raises:
        InputError: for an unknown name, an invalid option or a class prior of other classes.
    """
    node = cfg.MODEL.ROI_BOX_HEAD.ACTIVATION
    needs_prior = activation_class(node.NAME).needs_prior
    options = {key.lower(): value for key, value in node.get(node.NAME.upper(), {}).items()}
    prior = class_prior_from_config(cfg) if needs_prior else None
    return build_activation(node.NAME, cfg.MODEL.ROI_HEADS.NUM_CLASSES, prior, **options)
