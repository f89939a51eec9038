"""Mask R-CNN with ViTDet-B (Li et al., ECCV 2022), as Detectron2's ``LVIS/mask_rcnn_vitdet_b_100ep.py``."""

from functools import partial

from detectron2 import model_zoo
from detectron2.modeling.backbone.vit import get_vit_lr_decay_rate

from balanced_lvis.modeling import ActivationOutputLayers, ChosenClassMaskHead, LongTailROIHeads

from .lvis_v1 import dataloader, lr_multiplier, train

model = model_zoo.get_config("common/models/mask_rcnn_vitdet.py").model
model.roi_heads._target_ = LongTailROIHeads
model.roi_heads.num_classes = 1203
model.roi_heads.mask_head._target_ = ChosenClassMaskHead
model.roi_heads.box_predictor._target_ = ActivationOutputLayers
model.roi_heads.box_predictor.test_score_thresh = 0.0001
model.roi_heads.box_predictor.test_topk_per_image = 300

train.init_checkpoint = "detectron2://ImageNetPretrained/MAE/mae_pretrain_vit_base.pth?matching_heuristics=True"

optimizer = model_zoo.get_config("common/optim.py").AdamW
optimizer.lr = 2e-4
optimizer.params.lr_factor_func = partial(get_vit_lr_decay_rate, num_layers=12, lr_decay_rate=0.7)
optimizer.params.overrides = {"pos_embed": {"weight_decay": 0.0}}
