"""
Detections of one model under several calibrations, in one pass.

Features, proposals, logits and boxes are computed once; scores, NMS and top-k selection once per calibration. A mask
depends on the box and the class of a detection only, so the mask head runs once on the distinct pairs of all
calibrations together. Detections that can't change metrics need no masks and are left out.

Shape shorthand: R regions of an image, D detections under one calibration, M x M values of a mask.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from detectron2.modeling import GeneralizedRCNN
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from ..calibration import Calibration
from ..utils.errors import InputError
from .roi_heads import LongTailCascadeROIHeads, LongTailROIHeads


class Selection(NamedTuple):
    """
    The detections of an image under one calibration, best first.

    Attributes:
        regions: (D,) int64 index of the region of each detection.
        scores: (D,) calibrated scores.
        classes: (D,) int64 class indices 0..K-1.
    """

    regions: Tensor
    scores: Tensor
    classes: Tensor


class GridDetections(NamedTuple):
    """
    The detections of an image under several calibrations.

    Attributes:
        regions: ``Instances`` with the R distinct pairs of box and class of all detections: pred_boxes, pred_classes
            and, if the model has masks, pred_masks (R, 1, M, M). If the model's masks do not depend on the class, the
            distinct boxes, each with the class of one of its detections.
        selections: one per calibration.
    """

    regions: Instances
    selections: list[Selection]


class GridDetector:
    """
    A model in evaluation mode that detects under several calibrations.

    Boxes, classes and scores are bit-identical to those of the model with that calibration alone, and masks are up to
    the rounding of the mask head, where it depends on the number of RoIs in a batch.

    Args:
        model: a ``GeneralizedRCNN`` with :class:`.LongTailROIHeads` or :class:`.LongTailCascadeROIHeads`.
        calibrations: None for the scores of the activation.
        select: (image id, (D,) classes of its detections) -> (D,) bool, True for detections to keep; None to keep all.

    Raises:
        InputError: for another model, whose detection can't be split at the logits.
    """

    def __init__(
        self,
        model: GeneralizedRCNN,
        calibrations: Sequence[Calibration | None],
        select: Callable[[int, Tensor], Tensor] | None = None,
    ):
        check_splits_at_logits(model)
        self.model = model
        self._select = select
        self.calibrations = [calibration and calibration.to(model.device) for calibration in calibrations]

    @torch.no_grad()
    def __call__(self, batched_inputs: list[dict]) -> list[GridDetections]:
        """
        Args:
            batched_inputs: as for ``GeneralizedRCNN``; with ``image_id`` if there is a ``select``.

        Returns:
            per image, in pixels of the network's input.
        """
        model = self.model
        images = model.preprocess_image(batched_inputs)
        features = model.backbone(images.tensor)
        if model.proposal_generator is None:
            proposals = [record["proposals"].to(model.device) for record in batched_inputs]
        else:
            proposals, _ = model.proposal_generator(images, features, None)
        outputs = model.roi_heads.box_outputs(features, proposals)
        found = [self._detections(outputs, calibration) for calibration in self.calibrations]
        if self._select is not None:
            image_ids = [record["image_id"] for record in batched_inputs]
            found = [
                [each[self._select(image_id, each.pred_classes)] for image_id, each in zip(image_ids, of_images)]
                for of_images in found
            ]
        by_class = _masks_depend_on_class(model.roi_heads)
        shared = [_shared(of_image, by_class) for of_image in zip(*found)]
        model.roi_heads.forward_with_given_boxes(features, [each.regions for each in shared])
        return shared

    def _detections(self, outputs, calibration: Calibration | None) -> list[Instances]:
        heads = self.model.roi_heads
        before = [predictor.calibration for predictor in heads.box_predictors]
        try:
            for predictor in heads.box_predictors:
                predictor.calibration = calibration
            return heads.detections(outputs)
        finally:
            for predictor, own in zip(heads.box_predictors, before):
                predictor.calibration = own


def check_splits_at_logits(model: nn.Module) -> None:
    """
    Raises:
        InputError: if detections of the model can't be selected again from the same logits.
    """
    heads = getattr(model, "roi_heads", None)
    same_inference = getattr(type(model), "inference", None) is GeneralizedRCNN.inference
    if same_inference and any(_detects_as(heads, base) for base in (LongTailROIHeads, LongTailCascadeROIHeads)):
        return
    raise InputError(
        f"Several calibrations in one pass need the inference of GeneralizedRCNN with LongTailROIHeads or "
        f"LongTailCascadeROIHeads, but the model is a {type(model).__name__} with {type(heads).__name__}; evaluate it "
        "once per calibration, with MODEL.ROI_BOX_HEAD.CALIBRATION."
    )


def _detects_as(heads: nn.Module | None, base: type) -> bool:
    if not isinstance(heads, base):
        return False
    return all(getattr(type(heads), name) is getattr(base, name) for name in ("forward", "_forward_box"))


def _masks_depend_on_class(heads: Any) -> bool:
    """False without masks, or if the mask head is known to predict one mask per box."""
    if not heads.mask_on:
        return False
    predictor = getattr(getattr(heads, "mask_head", None), "predictor", None)
    return getattr(predictor, "out_channels", None) != 1


def _shared(found: Sequence[Instances], by_class: bool) -> GridDetections:
    """The detections of an image, each under another calibration, with their distinct regions."""
    boxes = torch.cat([instances.pred_boxes.tensor for instances in found])
    classes = torch.cat([instances.pred_classes for instances in found])
    keys = torch.cat([boxes, classes[:, None].to(boxes)], 1) if by_class else boxes
    distinct, index = torch.unique(keys, dim=0, return_inverse=True)
    of_region = classes.new_zeros(len(distinct)).scatter_(0, index, classes)
    regions = Instances(found[0].image_size, pred_boxes=Boxes(distinct[:, :4]), pred_classes=of_region)
    parts = index.split([len(instances) for instances in found])
    return GridDetections(regions, [Selection(i, f.scores, f.pred_classes) for i, f in zip(parts, found)])
