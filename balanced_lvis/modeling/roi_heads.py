"""ROI heads with :class:`ActivationOutputLayers` as box predictor and a mask head that computes used masks only."""

from __future__ import annotations

from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, CascadeROIHeads, StandardROIHeads
from torch import Tensor

from .box_predictor import ActivationOutputLayers
from .box_selection import fast_rcnn_inference
from .mask_head import with_chosen_class_masks
from .mask_threshold import MaskThreshold
from .pooling import faster_pooler


@ROI_HEADS_REGISTRY.register()
class LongTailROIHeads(MaskThreshold, StandardROIHeads):
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
        parts["box_pooler"] = faster_pooler(parts["box_pooler"])
        return parts

    @classmethod
    def _init_mask_head(cls, cfg, input_shape):
        return _mask_parts(super()._init_mask_head(with_chosen_class_masks(cfg), input_shape))


@ROI_HEADS_REGISTRY.register()
class LongTailCascadeROIHeads(MaskThreshold, CascadeROIHeads):
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
        parts["box_pooler"] = faster_pooler(parts["box_pooler"])
        return parts

    @classmethod
    def _init_mask_head(cls, cfg, input_shape):
        return _mask_parts(super()._init_mask_head(with_chosen_class_masks(cfg), input_shape))

    def _forward_box(self, features, proposals, targets=None):
        """As Detectron2's; at test time, detections are selected by :mod:`.box_selection`."""
        if self.training:
            return super()._forward_box(features, proposals, targets)
        return self._detect([features[name] for name in self.box_in_features], proposals)

    def _detect(self, features, proposals):
        """
        Args:
            features: of the levels that boxes are pooled from.
            proposals: one ``Instances`` per image with ``proposal_boxes``.

        Returns:
            ``Instances`` per image: boxes of the last stage, scores averaged over the stages.
        """
        image_sizes = [p.image_size for p in proposals]
        boxes: list[Tensor] = []
        scores_of_stages = []
        for stage, predictor in enumerate(self.box_predictor):
            if stage:
                proposals = self._create_proposals_from_boxes(boxes, image_sizes)
            predictions = self._run_stage(features, proposals, stage)
            boxes = predictor.predict_boxes(predictions, proposals)
            scores_of_stages.append(predictor.predict_probs(predictions, proposals))
        scores = [sum(of_image) * (1.0 / self.num_cascade_stages) for of_image in zip(*scores_of_stages)]
        thresholds = predictor.test_score_thresh, predictor.test_nms_thresh
        return fast_rcnn_inference(boxes, scores, image_sizes, *thresholds, predictor.test_topk_per_image)[0]


def _mask_parts(parts: dict) -> dict:
    """Detectron2's parts with a faster pooler; empty without masks."""
    return {**parts, "mask_pooler": faster_pooler(parts["mask_pooler"])} if parts else parts
