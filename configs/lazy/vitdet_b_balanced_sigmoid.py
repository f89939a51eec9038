"""Mask R-CNN with ViTDet-B on LVIS-1.0: Balanced Sigmoid with repeat factor sampling."""

from detectron2.config import LazyCall as L

from balanced_lvis.activations import BalancedSigmoid

from .base.vitdet_b import dataloader, lr_multiplier, model, optimizer, train

model.roi_heads.box_predictor.activation = L(BalancedSigmoid)(num_classes="${..num_classes}", form="foreground")
train.output_dir = "output/vitdet_b_balanced_sigmoid"
