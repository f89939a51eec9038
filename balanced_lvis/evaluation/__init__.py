"""Evaluation by the LVIS rules, and submissions to the LVIS server."""

from .. import _detectron2

_detectron2.require()

from .backends import BACKENDS, evaluate_detections  # noqa: E402
from .detection_store import Detections, DetectionWriter  # noqa: E402
from .lvis_api import LVIS, LVISEval, LVISResults, evaluate_on_lvis  # noqa: E402
from .lvis_evaluator import LVISEvaluator  # noqa: E402
from .mask_rle import masks_to_rle  # noqa: E402
from .model_outputs import instance_rles, unpasted  # noqa: E402

__all__ = [
    "BACKENDS",
    "LVIS",
    "DetectionWriter",
    "Detections",
    "LVISEval",
    "LVISEvaluator",
    "LVISResults",
    "evaluate_detections",
    "evaluate_on_lvis",
    "instance_rles",
    "masks_to_rle",
    "unpasted",
]
