"""Selection of the detections to draw."""

from __future__ import annotations

from torch import Tensor
from torchvision.ops import nms

_NMS_IOU = 0.5


def best_detections(boxes: Tensor, scores: Tensor, count: int) -> Tensor:
    """
    The detections with the highest scores after class-agnostic NMS at 0.5 IoU.

    Args:
        boxes: (n, 4) x0, y0, x1, y1.
        scores: (n,) scores.
        count: highest number of them.

    Returns:
        their indices by falling score.
    """
    return nms(boxes, scores, _NMS_IOU)[:count]
