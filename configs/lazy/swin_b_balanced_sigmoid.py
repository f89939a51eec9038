"""Cascade Mask R-CNN with Swin-B on LVIS-1.0: Balanced Sigmoid with repeat factor sampling."""

from detectron2.config import LazyCall as L

from balanced_lvis.activations import BalancedSigmoid

from .base.swin_b import dataloader, lr_multiplier, model, optimizer, train

for _predictor in model.roi_heads.box_predictors:
    _predictor.activation = L(BalancedSigmoid)(num_classes="${..num_classes}", form="foreground")
train.output_dir = "output/swin_b_balanced_sigmoid"
