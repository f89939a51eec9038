"""A residual network small enough to learn from scratch on a CPU within minutes."""

from __future__ import annotations

from detectron2.modeling.backbone import BACKBONE_REGISTRY, FPN
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, ResNet

STAGES = ("res2", "res3", "res4", "res5")


@BACKBONE_REGISTRY.register()
def build_small_resnet_fpn_backbone(cfg, input_shape):
    """
    ResNet with FPN, one basic block per stage, for the rendered dataset.

    Detectron2's smallest ResNet, ResNet-18, has 64 channels in res2; this one has ``MODEL.RESNETS.RES2_OUT_CHANNELS``,
    doubled from stage to stage. Stages after the last of ``MODEL.RESNETS.OUT_FEATURES`` are left out.

    Args:
        cfg: reads ``MODEL.RESNETS`` (NORM, STEM_OUT_CHANNELS, RES2_OUT_CHANNELS, OUT_FEATURES) and ``MODEL.FPN``.
        input_shape: ``ShapeSpec`` of the image.

    Returns:
        FPN with levels p2, p3, ... at strides 4, 8, ...
    """
    node = cfg.MODEL.RESNETS
    channels = node.STEM_OUT_CHANNELS
    stem = BasicStem(in_channels=input_shape.channels, out_channels=channels, norm=node.NORM)
    stages = []
    for index in range(1 + max(STAGES.index(name) for name in node.OUT_FEATURES)):
        width = node.RES2_OUT_CHANNELS * 2**index
        stages.append([BasicBlock(channels, width, stride=1 if index == 0 else 2, norm=node.NORM)])
        channels = width
    return FPN(
        bottom_up=ResNet(stem, stages, out_features=node.OUT_FEATURES),
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )
