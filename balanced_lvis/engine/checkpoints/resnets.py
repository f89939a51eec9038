"""
ResNets of torchvision and timm, and those in mmdetection's checkpoints, in Detectron2's layout.

The programs have the same ResNet under other names. They differ from Detectron2's own pretrained weights (MSRA's) in
the order of the channels, in the normalisation of images and in the convolution with the stride (:mod:`.settings`).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import build_resnet_backbone
from torch import Tensor

from ...config import default_config
from ...utils.errors import InputError
from .other_layouts import Renamed, Rule, check_shapes, rename
from .settings import STRIDE, TORCHVISION

DEPTH = "MODEL.RESNETS.DEPTH"
_STATISTICS = "(weight|bias|running_mean|running_var)"
_STAGES = ("res2", "res3", "res4", "res5")
# Depth by the kind of blocks and their number in each stage, as in Detectron2.
_DEPTHS: dict[tuple[bool, tuple[int, ...]], int] = {
    (False, (2, 2, 2, 2)): 18,
    (False, (3, 4, 6, 3)): 34,
    (True, (3, 4, 6, 3)): 50,
    (True, (3, 4, 23, 3)): 101,
    (True, (3, 8, 36, 3)): 152,
}


def resnet_rules(prefix: str = "", target: str = "") -> list[Rule]:
    """
    The layout of a ResNet.

    Args:
        prefix: of the names in the file.
        target: prefix of the names in Detectron2.
    """
    start = prefix.replace(".", r"\.")

    def in_stage(part: str):
        return lambda match: target + f"res{int(match[1]) + 1}." + match.expand(part)

    block = rf"{start}layer([1-4])\.(\d+)\."
    return [
        (rf"{start}conv1\.weight", f"{target}stem.conv1.weight"),
        (rf"{start}bn1\.{_STATISTICS}", rf"{target}stem.conv1.norm.\1"),
        (rf"{block}conv([1-3])\.weight", in_stage(r"\2.conv\3.weight")),
        (rf"{block}bn([1-3])\.{_STATISTICS}", in_stage(r"\2.conv\3.norm.\4")),
        (rf"{block}downsample\.0\.weight", in_stage(r"\2.shortcut.weight")),
        (rf"{block}downsample\.1\.{_STATISTICS}", in_stage(r"\2.shortcut.norm.\3")),
        (rf"{start}.*\.num_batches_tracked", None),
    ]


def is_resnet(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the names of a ResNet of torchvision or timm."""
    return "layer1.0.conv1.weight" in state and "layer4.0.conv1.weight" in state


def resnet_settings(source: str, state: Mapping[str, Tensor], prefix: str = "") -> dict:
    """
    Config values of the architecture, from the names and shapes of Detectron2's tensors.

    Args:
        source: name of the file, for messages.
        state: tensors by name in Detectron2.
        prefix: of the ResNet's names in ``state``.

    Raises:
        InputError: if it is not a ResNet that Detectron2 has.
    """
    blocks = tuple(_num_blocks(state, f"{prefix}{stage}.") for stage in _STAGES)
    bottleneck = f"{prefix}res2.0.conv3.weight" in state
    depth = _DEPTHS.get((bottleneck, blocks))
    if depth is None:
        kind = "bottleneck" if bottleneck else "basic"
        raise InputError(
            f"{source!r} has a ResNet with {', '.join(map(str, blocks))} {kind} blocks in its stages, which Detectron2 "
            "doesn't have; it has ResNet-18, 34, 50, 101 and 152."
        )
    if not bottleneck:
        return {DEPTH: depth, "MODEL.RESNETS.RES2_OUT_CHANNELS": 64}
    weight = state.get(f"{prefix}res2.0.conv2.weight")
    shape = tuple(weight.shape) if weight is not None else ()
    groups = shape[0] // shape[1] if len(shape) == 4 and shape[1] else 0
    width = shape[0] // groups if groups else 0
    if not width or (groups, width) == (1, 64):
        return {DEPTH: depth}
    return {DEPTH: depth, "MODEL.RESNETS.NUM_GROUPS": groups, "MODEL.RESNETS.WIDTH_PER_GROUP": width}


def _num_blocks(state: Mapping[str, Tensor], stage: str) -> int:
    return len({name[len(stage) :].split(".")[0] for name in state if name.startswith(stage)})


def convert_resnet(source: str, state: Mapping[str, Tensor]) -> Renamed:
    """
    A ResNet of torchvision or timm with the names of Detectron2's, without its classifier.

    The names have no prefix: Detectron2 finds the parts of a model that they belong to.

    Args:
        source: name of the file, for messages.
        state: tensors by name in torchvision.

    Raises:
        InputError: if it is not a complete ResNet that Detectron2 has; the message lists the differences.
    """
    found = rename(source, "torchvision or timm", state, [*resnet_rules(), (r"fc\.(weight|bias)", None)])
    architecture = resnet_settings(source, found.state)
    name = resnet_name(architecture)
    check_shapes(source, found, _resnet_shapes(architecture), f"{name} of torchvision or timm")
    found.settings = {**TORCHVISION, **architecture}
    if not _has_bottlenecks(architecture):
        del found.settings[STRIDE]  # a block of two 3x3 convolutions has the stride in the first
    found.steps = [f"{name} of torchvision or timm: names changed to those of Detectron2"]
    return found


def resnet_name(settings: Mapping) -> str:
    """The name of an architecture, such as ResNet-50 or ResNeXt-101 32x4d."""
    groups, width = (settings.get(f"MODEL.RESNETS.{key}") for key in ("NUM_GROUPS", "WIDTH_PER_GROUP"))
    depth = settings[DEPTH]
    if groups is None:
        return f"ResNet-{depth}"
    return f"ResNet-{depth} of width {width}" if groups == 1 else f"ResNeXt-{depth} {groups}x{width}d"


def _has_bottlenecks(settings: Mapping) -> bool:
    return settings[DEPTH] >= 50


def _resnet_shapes(architecture: Mapping) -> dict[str, torch.Size]:
    """Shapes of Detectron2's backbone, which is built without memory for its tensors."""
    cfg = default_config()
    cfg.merge_from_list([word for pair in architecture.items() for word in pair])
    cfg.MODEL.RESNETS.OUT_FEATURES = list(_STAGES)
    with torch.device("meta"):
        backbone = build_resnet_backbone(cfg, ShapeSpec(channels=3))
    return {name: value.shape for name, value in backbone.state_dict().items()}
