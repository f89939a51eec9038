"""The model, data and settings of ``configs/quick_start/balanced_sigmoid.yaml``, as a LazyConfig."""

import torch
from detectron2.config import LazyCall as L
from detectron2.data import build_detection_test_loader, build_detection_train_loader, get_detection_dataset_dicts
from detectron2.data import transforms as T
from detectron2.layers import ShapeSpec
from detectron2.modeling import FPN, GeneralizedRCNN
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, ResNet
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.roi_heads import FastRCNNConvFCHead
from detectron2.solver import WarmupParamScheduler
from detectron2.solver.build import get_default_optimizer_params
from fvcore.common.param_scheduler import CosineParamScheduler

from balanced_lvis.activations import BalancedSigmoid
from balanced_lvis.data.mapper import ImageMapper
from balanced_lvis.evaluation import LVISEvaluator
from balanced_lvis.modeling import ActivationOutputLayers, ChosenClassMaskHead, LongTailROIHeads, SampledRPNHead

_WIDTHS = (32, 32, 64, 128)


def _pooler(size):
    return L(ROIPooler)(output_size=size, scales=(1 / 4,), sampling_ratio=1, pooler_type="ROIAlignV2")


model = L(GeneralizedRCNN)(
    backbone=L(FPN)(
        bottom_up=L(ResNet)(
            stem=L(BasicStem)(in_channels=3, out_channels=32, norm="BN"),
            stages=[
                [L(BasicBlock)(in_channels=_WIDTHS[i], out_channels=_WIDTHS[i + 1], stride=1 + (i > 0), norm="BN")]
                for i in range(3)
            ],
            out_features=["res2", "res3", "res4"],
        ),
        in_features="${.bottom_up.out_features}",
        out_channels=64,
        norm="BN",
    ),
    proposal_generator=L(RPN)(
        in_features=["p3", "p4"],
        head=L(SampledRPNHead)(in_channels=64, num_anchors=1),
        anchor_generator=L(DefaultAnchorGenerator)(
            sizes=[[28], [48]], aspect_ratios=[[1.0]], strides=[8, 16], offset=0.0
        ),
        anchor_matcher=L(Matcher)(thresholds=[0.3, 0.7], labels=[0, -1, 1], allow_low_quality_matches=True),
        box2box_transform=L(Box2BoxTransform)(weights=[1.0, 1.0, 1.0, 1.0]),
        batch_size_per_image=64,
        positive_fraction=0.5,
        pre_nms_topk=(128, 128),
        post_nms_topk=(64, 64),
        nms_thresh=0.7,
    ),
    roi_heads=L(LongTailROIHeads)(
        num_classes=12,
        batch_size_per_image=32,
        positive_fraction=0.5,
        proposal_matcher=L(Matcher)(thresholds=[0.5], labels=[0, 1], allow_low_quality_matches=False),
        box_in_features=["p2"],
        box_pooler=_pooler(7),
        box_head=L(FastRCNNConvFCHead)(
            input_shape=ShapeSpec(channels=64, height=7, width=7), conv_dims=[], fc_dims=[256, 256]
        ),
        box_predictor=L(ActivationOutputLayers)(
            activation=L(BalancedSigmoid)(num_classes="${..num_classes}", form="centred"),
            input_shape=ShapeSpec(channels=256),
            box2box_transform=L(Box2BoxTransform)(weights=(10, 10, 5, 5)),
            num_classes="${..num_classes}",
            cls_agnostic_bbox_reg=True,
            test_score_thresh=0.0001,
        ),
        mask_in_features=["p2"],
        mask_pooler=_pooler(10),
        mask_head=L(ChosenClassMaskHead)(
            input_shape=ShapeSpec(channels=64, height=10, width=10), num_classes=1, conv_dims=[32, 32, 32]
        ),
    ),
    pixel_mean=[128.0, 128.0, 128.0],
    pixel_std=[64.0, 64.0, 64.0],
    input_format="RGB",
)

dataloader = dict(
    train=L(build_detection_train_loader)(
        dataset=L(get_detection_dataset_dicts)(names="rendered_train"),
        mapper=L(ImageMapper)(
            is_train=True,
            augmentations=[L(T.ResizeShortestEdge)(short_edge_length=128, max_size=128, sample_style="choice")],
            image_format="RGB",
            use_instance_mask=True,
        ),
        total_batch_size=2,
        num_workers=0,
    ),
    test=L(build_detection_test_loader)(
        dataset=L(get_detection_dataset_dicts)(names="rendered_val", filter_empty=False),
        mapper=L(ImageMapper)(
            is_train=False,
            augmentations=[L(T.ResizeShortestEdge)(short_edge_length=128, max_size=128)],
            image_format="RGB",
        ),
        num_workers=0,
    ),
    evaluator=L(LVISEvaluator)(dataset_name="${..test.dataset.names}"),
)

optimizer = L(torch.optim.AdamW)(
    params=L(get_default_optimizer_params)(base_lr="${..lr}", weight_decay_norm=0.0),
    lr=0.002,
    weight_decay=0.01,
)
lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(CosineParamScheduler)(start_value=1, end_value=0.0),
    warmup_factor=0.001,
    warmup_length=0.25,
)

train = dict(
    output_dir="output",
    init_checkpoint="",
    max_iter=4,
    amp=dict(enabled=False),
    checkpointer=dict(period=200),
    eval_period=0,
    device="cpu",
    seed=5,
)
engine = dict(
    DATASETS=dict(
        RENDERED=dict(
            NUM_CLASSES=12,
            TRAIN_IMAGES=24,
            VAL_IMAGES=12,
            TEST_IMAGES=4,
            IMAGE_SIZE=[96, 96],
            OBJECTS_PER_IMAGE=3,
            OBJECT_SCALE=[0.16, 0.42],
        )
    )
)
