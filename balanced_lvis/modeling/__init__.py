"""Detectron2 models with the activations and calibrations of balanced_lvis."""

from .. import _detectron2

_detectron2.require()

from .box_predictor import ActivationOutputLayers  # noqa: E402
from .decoupled import ClassifierInputs, DecoupledRCNN  # noqa: E402
from .grid_detector import GridDetector  # noqa: E402
from .mask_head import ChosenClassMaskHead  # noqa: E402
from .roi_heads import LongTailCascadeROIHeads, LongTailROIHeads  # noqa: E402
from .rpn_head import SampledRPNHead  # noqa: E402
from .small_backbone import build_small_resnet_fpn_backbone  # noqa: E402
from .timm_backbone import TimmBackbone, build_timm_fpn_backbone  # noqa: E402

__all__ = [
    "ActivationOutputLayers",
    "ChosenClassMaskHead",
    "ClassifierInputs",
    "DecoupledRCNN",
    "GridDetector",
    "LongTailCascadeROIHeads",
    "LongTailROIHeads",
    "SampledRPNHead",
    "TimmBackbone",
    "build_small_resnet_fpn_backbone",
    "build_timm_fpn_backbone",
]
