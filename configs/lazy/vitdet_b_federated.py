"""Mask R-CNN with ViTDet-B on LVIS-1.0: federated loss, with the settings of Detectron2's recipe."""

from detectron2.config import LazyCall as L

from balanced_lvis.activations import Federated

from .base.vitdet_b import dataloader, lr_multiplier, model, optimizer, train

model.roi_heads.box_predictor.activation = L(Federated)(
    num_classes="${..num_classes}", classes_per_batch=50, power=0.5, prior_probability=0.5
)
model.roi_heads.box_predictor.test_score_thresh = 0.02
train.output_dir = "output/vitdet_b_federated"
