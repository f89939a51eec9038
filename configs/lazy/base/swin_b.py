"""
Cascade Mask R-CNN with Swin-B (Liu et al., ICCV 2021), as Detectron2's ``LVIS/cascade_mask_rcnn_swin_b_in21k_50ep.py``.

Detectron2 has no recipe with a plain Mask R-CNN for this backbone.
"""

from detectron2 import model_zoo
from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling import SwinTransformer
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.roi_heads import FastRCNNConvFCHead

from balanced_lvis.modeling import ActivationOutputLayers, ChosenClassMaskHead, LongTailCascadeROIHeads

from .lvis_v1 import dataloader, lr_multiplier, train

_constants = model_zoo.get_config("common/data/constants.py").constants
_IMAGE_SIZE = 1024

model = model_zoo.get_config("common/models/mask_rcnn_fpn.py").model
model.pixel_mean = _constants.imagenet_rgb256_mean
model.pixel_std = _constants.imagenet_rgb256_std
model.input_format = "RGB"
model.backbone.bottom_up = L(SwinTransformer)(
    depths=[2, 2, 18, 2], drop_path_rate=0.3, embed_dim=128, num_heads=[4, 8, 16, 32]
)
model.backbone.in_features = ("p0", "p1", "p2", "p3")
model.backbone.square_pad = _IMAGE_SIZE
model.backbone.norm = "LN"
model.proposal_generator.head.conv_dims = [-1, -1]

for _name in ("box_head", "box_predictor", "proposal_matcher"):
    model.roi_heads.pop(_name)
model.roi_heads.update(
    _target_=LongTailCascadeROIHeads,
    num_classes=1203,
    box_heads=[
        L(FastRCNNConvFCHead)(
            input_shape=ShapeSpec(channels=256, height=7, width=7),
            conv_dims=[256, 256, 256, 256],
            fc_dims=[1024],
            conv_norm="LN",
        )
        for _ in range(3)
    ],
    box_predictors=[
        L(ActivationOutputLayers)(
            input_shape=ShapeSpec(channels=1024),
            box2box_transform=L(Box2BoxTransform)(weights=weights),
            cls_agnostic_bbox_reg=True,
            num_classes="${...num_classes}",
            test_score_thresh=0.0001,
            test_topk_per_image=300,
        )
        for weights in ((10, 10, 5, 5), (20, 20, 10, 10), (30, 30, 15, 15))
    ],
    proposal_matchers=[
        L(Matcher)(thresholds=[threshold], labels=[0, 1], allow_low_quality_matches=False)
        for threshold in (0.5, 0.6, 0.7)
    ],
)
model.roi_heads.mask_head._target_ = ChosenClassMaskHead
model.roi_heads.mask_head.conv_norm = "LN"

# 50 epochs, with the same shares of the schedule.
train.max_iter = train.max_iter // 2
train.init_checkpoint = (
    # The query also loads the file of Swin's authors, whose names lack the prefix of the backbone.
    "detectron2://ImageNetPretrained/swin/swin_base_patch4_window7_224_22k.pth?matching_heuristics=True"
)
lr_multiplier.scheduler.milestones = [milestone // 2 for milestone in lr_multiplier.scheduler.milestones]
lr_multiplier.scheduler.num_updates = train.max_iter
lr_multiplier.warmup_length = 250 / train.max_iter

optimizer = model_zoo.get_config("common/optim.py").AdamW
optimizer.lr = 1e-4
optimizer.weight_decay = 0.05
optimizer.params.overrides = {"relative_position_bias_table": {"weight_decay": 0.0}}
