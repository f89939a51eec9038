"""Cascade Mask R-CNN with Swin-B on LVIS-1.0: sigmoid classifiers with repeat factor sampling, the baseline."""

from detectron2.config import LazyCall as L

from balanced_lvis.activations import Sigmoid

from .base.swin_b import dataloader, lr_multiplier, model, optimizer, train

for _predictor in model.roi_heads.box_predictors:
    _predictor.activation = L(Sigmoid)(num_classes="${..num_classes}")
train.output_dir = "output/swin_b_sigmoid"
