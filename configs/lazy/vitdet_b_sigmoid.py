"""Mask R-CNN with ViTDet-B on LVIS-1.0: sigmoid classifiers with repeat factor sampling, the baseline."""

from detectron2.config import LazyCall as L

from balanced_lvis.activations import Sigmoid

from .base.vitdet_b import dataloader, lr_multiplier, model, optimizer, train

model.roi_heads.box_predictor.activation = L(Sigmoid)(num_classes="${..num_classes}")
train.output_dir = "output/vitdet_b_sigmoid"
