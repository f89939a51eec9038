"""ROI heads whose box predictor is :class:`ActivationOutputLayers`, and whose mask head computes what is used."""

from __future__ import annotations

from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, CascadeROIHeads, StandardROIHeads

from .box_predictor import ActivationOutputLayers
from .mask_head import with_chosen_class_masks


@ROI_HEADS_REGISTRY.register()
class LongTailROIHeads(StandardROIHeads):
    """
    ``StandardROIHeads`` with the activation that ``MODEL.ROI_BOX_HEAD.ACTIVATION`` names.

    ``MODEL.ROI_MASK_HEAD.NAME`` "MaskRCNNConvUpsampleHead" is built as :class:`ChosenClassMaskHead`, unless
    ``MODEL.ROI_MASK_HEAD.CHOSEN_CLASS_ONLY`` is False.
    """

    @classmethod
    def _init_box_head(cls, cfg, input_shape):
        parts = super()._init_box_head(cfg, input_shape)
        parts["box_predictor"] = ActivationOutputLayers(cfg, parts["box_head"].output_shape)
        return parts

    @classmethod
    def _init_mask_head(cls, cfg, input_shape):
        return super()._init_mask_head(with_chosen_class_masks(cfg), input_shape)


@ROI_HEADS_REGISTRY.register()
class LongTailCascadeROIHeads(CascadeROIHeads):
    """``CascadeROIHeads`` with the activation at every stage, and the mask head of :class:`LongTailROIHeads`."""

    @classmethod
    def _init_box_head(cls, cfg, input_shape):
        parts = super()._init_box_head(cfg, input_shape)
        parts["box_predictors"] = [
            ActivationOutputLayers(cfg, head.output_shape, box2box_transform=stock.box2box_transform)
            for head, stock in zip(parts["box_heads"], parts["box_predictors"])
        ]
        return parts

    @classmethod
    def _init_mask_head(cls, cfg, input_shape):
        return super()._init_mask_head(with_chosen_class_masks(cfg), input_shape)
