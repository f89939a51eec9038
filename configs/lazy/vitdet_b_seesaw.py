"""Mask R-CNN with ViTDet-B on LVIS-1.0: Seesaw Loss with repeat factor sampling and normalized mask predictor."""

from detectron2.config import LazyCall as L

from balanced_lvis.activations import Seesaw

from .base.vitdet_b import dataloader, lr_multiplier, model, optimizer, train

model.roi_heads.box_predictor.activation = L(Seesaw)(num_classes="${..num_classes}")
model.roi_heads.mask_head.temperature = 20.0
train.output_dir = "output/vitdet_b_seesaw"
