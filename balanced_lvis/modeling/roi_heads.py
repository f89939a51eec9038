"""ROI heads with :class:`ActivationOutputLayers` as box predictor and a mask head that computes used masks only."""

from __future__ import annotations

from typing import Any

from detectron2.config import configurable
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, CascadeROIHeads, StandardROIHeads
from detectron2.structures import Instances

from .box_predictor import ActivationOutputLayers
from .box_selection import fast_rcnn_inference
from .mask_head import with_chosen_class_masks
from .mask_threshold import MaskThreshold
from .pooling import faster_pooler

# Per stage: logits and box deltas of the predictor, and the proposals that they are of, one ``Instances`` per image.
BoxOutputs = list[tuple[Any, list[Instances]]]


class FasterPoolers(MaskThreshold):
    """
    Base class of RoI heads with the poolers of :mod:`.pooling` and, in configs, the mask head of :mod:`.mask_head`.

    Args:
        box_pooler, mask_pooler: Detectron2's.
        **kwargs: as for the RoI heads.
    """

    @configurable
    def __init__(self, *, box_pooler, mask_pooler=None, **kwargs):
        super().__init__(box_pooler=faster_pooler(box_pooler), mask_pooler=faster_pooler(mask_pooler), **kwargs)

    @classmethod
    def _init_mask_head(cls, cfg, input_shape):
        return super()._init_mask_head(with_chosen_class_masks(cfg), input_shape)


@ROI_HEADS_REGISTRY.register()
class LongTailROIHeads(FasterPoolers, StandardROIHeads):
    """
    ``StandardROIHeads`` with the activation of ``MODEL.ROI_BOX_HEAD.ACTIVATION`` and the calibration of
    ``MODEL.ROI_BOX_HEAD.CALIBRATION``.

    ``MODEL.ROI_MASK_HEAD.NAME`` "MaskRCNNConvUpsampleHead" is built as :class:`.mask_head.ChosenClassMaskHead`, unless
    ``MODEL.ROI_MASK_HEAD.CHOSEN_CLASS_ONLY`` is False. ``TEST.MASK_THRESHOLD`` is the threshold of predicted masks.
    """

    @classmethod
    def _init_box_head(cls, cfg, input_shape):
        parts = super()._init_box_head(cfg, input_shape)
        parts["box_predictor"] = ActivationOutputLayers(cfg, parts["box_head"].output_shape)
        return parts

    @property
    def box_predictors(self) -> list[ActivationOutputLayers]:
        """The box predictor, in a list as that of a cascade."""
        return [self.box_predictor]

    def _forward_box(self, features, proposals):
        """As Detectron2's; at test time in two steps, of which the second can be repeated."""
        if self.training:
            return super()._forward_box(features, proposals)
        return self.detections(self.box_outputs(features, proposals))

    def box_outputs(self, features, proposals) -> BoxOutputs:
        """
        The part of detection at test time that does not depend on the calibration.

        Args:
            features: {level: (N, C, H, W)}.
            proposals: one ``Instances`` per image with ``proposal_boxes``.
        """
        levels = [features[name] for name in self.box_in_features]
        pooled = self.box_pooler(levels, [p.proposal_boxes for p in proposals])
        return [(self.box_predictor(self.box_head(pooled)), proposals)]

    def detections(self, outputs: BoxOutputs) -> list[Instances]:
        """
        The rest of detection: scores, NMS and top-k selection.

        Args:
            outputs: from :meth:`box_outputs`, not modified.

        Returns:
            ``Instances`` per image with pred_boxes, scores and pred_classes.
        """
        ((predictions, proposals),) = outputs
        return self.box_predictor.inference(predictions, proposals)[0]


@ROI_HEADS_REGISTRY.register()
class LongTailCascadeROIHeads(FasterPoolers, CascadeROIHeads):
    """
    ``CascadeROIHeads`` with the activation at every stage, and the mask head of :class:`LongTailROIHeads`.

    Scores are calibrated at every stage, as each has its own classifier, and then averaged over the stages.
    """

    @classmethod
    def _init_box_head(cls, cfg, input_shape):
        parts = super()._init_box_head(cfg, input_shape)
        parts["box_predictors"] = [
            ActivationOutputLayers(cfg, head.output_shape, box2box_transform=stock.box2box_transform)
            for head, stock in zip(parts["box_heads"], parts["box_predictors"])
        ]
        return parts

    @property
    def box_predictors(self) -> list[ActivationOutputLayers]:
        """The box predictors of the stages."""
        return list(self.box_predictor)

    def _forward_box(self, features, proposals, targets=None):
        """As Detectron2's; at test time, detections are selected by :mod:`.box_selection`."""
        if self.training:
            return super()._forward_box(features, proposals, targets)
        return self.detections(self.box_outputs(features, proposals))

    def box_outputs(self, features, proposals) -> BoxOutputs:
        """
        As :meth:`LongTailROIHeads.box_outputs`. The boxes of a stage, which the next one refines, do not depend on
        scores.
        """
        features = [features[name] for name in self.box_in_features]
        image_sizes = [p.image_size for p in proposals]
        outputs: BoxOutputs = []
        for stage in range(self.num_cascade_stages):
            if stage:
                boxes = self.box_predictor[stage - 1].predict_boxes(*outputs[-1])
                proposals = self._create_proposals_from_boxes(boxes, image_sizes)
            outputs.append((self._run_stage(features, proposals, stage), proposals))
        return outputs

    def detections(self, outputs: BoxOutputs) -> list[Instances]:
        """As :meth:`LongTailROIHeads.detections`: boxes of the last stage, scores averaged over the stages."""
        scores_of_stages = [predictor.predict_probs(*of) for predictor, of in zip(self.box_predictor, outputs)]
        scores = [sum(of_image) * (1.0 / self.num_cascade_stages) for of_image in zip(*scores_of_stages)]
        predictor, (_, proposals) = self.box_predictor[-1], outputs[-1]
        boxes = predictor.predict_boxes(*outputs[-1])
        thresholds = predictor.test_score_thresh, predictor.test_nms_thresh
        image_sizes = [p.image_size for p in proposals]
        return fast_rcnn_inference(boxes, scores, image_sizes, *thresholds, predictor.test_topk_per_image)[0]
