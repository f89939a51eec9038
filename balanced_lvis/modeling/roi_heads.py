"""ROI heads whose box predictor is :class:`ActivationOutputLayers`."""

from __future__ import annotations

from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, CascadeROIHeads, StandardROIHeads

from .box_predictor import ActivationOutputLayers


@ROI_HEADS_REGISTRY.register()
class LongTailROIHeads(StandardROIHeads):
    """``StandardROIHeads`` with the activation that ``MODEL.ROI_BOX_HEAD.ACTIVATION`` names."""

    @classmethod
    def _init_box_head(cls, cfg, input_shape):
        parts = super()._init_box_head(cfg, input_shape)
        parts["box_predictor"] = ActivationOutputLayers(cfg, parts["box_head"].output_shape)
        return parts


@ROI_HEADS_REGISTRY.register()
class LongTailCascadeROIHeads(CascadeROIHeads):
    """``CascadeROIHeads`` with the activation at every stage."""

    @classmethod
    def _init_box_head(cls, cfg, input_shape):
        parts = super()._init_box_head(cfg, input_shape)
        parts["box_predictors"] = [
            ActivationOutputLayers(cfg, head.output_shape, box2box_transform=stock.box2box_transform)
            for head, stock in zip(parts["box_heads"], parts["box_predictors"])
        ]
        return parts
