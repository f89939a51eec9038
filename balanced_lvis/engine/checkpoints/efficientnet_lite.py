"""EfficientNet-Lite0 of the package efficientnet_lite_pytorch, in the layout of timm."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ...modeling.timm_backbone import TimmBackbone
from .other_layouts import Renamed, Rule, check_shapes, rename
from .settings import FORMAT, MEAN, STD

# The same network in timm: as in TensorFlow, images are padded to "SAME" sizes, and batch normalisation has eps 0.001.
NETWORK = "tf_efficientnet_lite0"
_BLOCKS = (1, 2, 2, 3, 3, 4, 1)  # number of blocks of each stage
_STATISTICS = "(weight|bias|running_mean|running_var)"
# Pixels in -1..1, as the network was trained in TensorFlow.
_SETTINGS = {
    FORMAT: "RGB",
    MEAN: [127.0, 127.0, 127.0],
    STD: [128.0, 128.0, 128.0],
    "MODEL.BACKBONE.NAME": "build_timm_fpn_backbone",
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.TIMM.NAME": NETWORK,
}


def is_efficientnet_lite(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the names of an EfficientNet-Lite of efficientnet_lite_pytorch."""
    return "_conv_stem.weight" in state and "_blocks.0._depthwise_conv.weight" in state


def convert_efficientnet_lite(source: str, state: Mapping[str, Tensor]) -> Renamed:
    """
    EfficientNet-Lite0 with timm's names, without the layers after the last feature map.

    Args:
        source: name of the file, for messages.
        state: tensors by name in efficientnet_lite_pytorch.

    Raises:
        InputError: if it is not a complete EfficientNet-Lite0, or timm is not installed.
    """
    found = rename(source, "efficientnet_lite_pytorch", state, _rules())
    with torch.device("meta"):
        network = TimmBackbone(NETWORK).network
    shapes = {name: value.shape for name, value in network.state_dict().items() if not name.endswith("_tracked")}
    check_shapes(source, found, shapes, "EfficientNet-Lite0 of efficientnet_lite_pytorch")
    found.settings = dict(_SETTINGS)
    found.steps = ["EfficientNet-Lite0 of efficientnet_lite_pytorch: names changed to those of timm"]
    return found


def _rules() -> list[Rule]:
    places = [f"blocks.{stage}.{block}" for stage, count in enumerate(_BLOCKS) for block in range(count)]

    def in_block(part: str):
        return lambda match: f"{places[int(match[1])]}.{match.expand(part)}"

    def number_of(names: str) -> str:
        return rf"_blocks\.({'|'.join(map(str, range(len(places))))})\.{names}"

    first = r"_blocks\.(0)\."  # without an expansion
    return [
        (r"_conv_stem\.weight", "conv_stem.weight"),
        (rf"_bn0\.{_STATISTICS}", r"bn1.\1"),
        (rf"{first}_depthwise_conv\.weight", in_block("conv_dw.weight")),
        (rf"{first}_project_conv\.weight", in_block("conv_pw.weight")),
        (rf"{first}_bn([12])\.{_STATISTICS}", in_block(r"bn\2.\3")),
        (number_of(r"_expand_conv\.weight"), in_block("conv_pw.weight")),
        (number_of(r"_depthwise_conv\.weight"), in_block("conv_dw.weight")),
        (number_of(r"_project_conv\.weight"), in_block("conv_pwl.weight")),
        *((number_of(rf"_bn{number}\.{_STATISTICS}"), in_block(rf"bn{number + 1}.\2")) for number in range(3)),
        (r"(_conv_head|_fc|_bn1)\..*", None),
        (r".*\.num_batches_tracked", None),
    ]
