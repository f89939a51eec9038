"""RLE encoding of masks, compared with pasting by Detectron2 and encoding by pycocotools."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.layers.mask_ops import paste_masks_in_image
from detectron2.structures import Boxes, Instances
from torch import Tensor

from balanced_lvis.evaluation import masks_to_rle

from .measure import Options, in_fresh_process, row, time_alternating

# Detections, height and width in pixels: 300 per image as in LVIS, a larger image, and fewer detections.
SIZES = ((300, 640, 853), (300, 1200, 1600), (30, 640, 853), (1, 640, 853))
MASK_SIZE = 28
CALLS_PER_ROUND = 5  # a single call is too short for a reliable time


def rle(options: Options) -> list[dict]:
    """M x M masks and boxes to RLE masks, always on the CPU; peak memory is measured in separate processes."""
    return [_compare(*size, options) for size in SIZES]


def _compare(num: int, height: int, width: int, options: Options) -> dict:
    masks, boxes = lvis_like_detections(num, height, width)
    identical = stock(masks, boxes, height, width) == native(masks, boxes, height, width)
    seconds = time_alternating(
        lambda: stock(masks, boxes, height, width),
        lambda: native(masks, boxes, height, width),
        CALLS_PER_ROUND * options.rounds,
    )
    job = {"num": num, "height": height, "width": width}
    peaks = tuple(
        in_fresh_process(f"{__name__}:run_job", {**job, "contender": contender})["peak_mb"] for contender in CONTENDERS
    )
    return row("rle", f"{num} detections, {height}x{width}", *seconds, peaks, identical)


def run_job(job: dict) -> dict:
    """One call in this process, for its peak memory."""
    masks, boxes = lvis_like_detections(job["num"], job["height"], job["width"])
    CONTENDERS[job["contender"]](masks, boxes, job["height"], job["width"])
    return {}


def stock(masks: Tensor, boxes: Tensor, height: int, width: int) -> list[dict]:
    """Detectron2: paste all masks as its models do, then encode them as its evaluator does."""
    pasted = paste_masks_in_image(masks, boxes, (height, width))
    zeros = torch.zeros(len(masks), dtype=torch.long)
    instances = Instances((height, width), pred_boxes=Boxes(boxes), scores=zeros, pred_classes=zeros, pred_masks=pasted)
    return [result["segmentation"] for result in instances_to_coco_json(instances, 0)]


def native(masks: Tensor, boxes: Tensor, height: int, width: int) -> list[dict]:
    """balanced_lvis."""
    return masks_to_rle(masks, boxes, (height, width))


CONTENDERS = {"stock": stock, "native": native}


def lvis_like_detections(num: int, height: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """
    Boxes with the sizes of LVIS objects, and masks that resemble those of a trained head.

    The sizes follow the 977 objects of the LVIS API's sample file: the square root of a box's area, as a fraction of
    the image, is log-normal with median 0.073 and sigma 1.0, and the aspect ratio with median 1 and sigma 0.77. The
    mean area is 3.6% of the image. Centres are uniform, and boxes that exceed the image are moved inside. Masks are
    ellipses that fill just over half of the box, with smooth irregular borders: probabilities of 0.98 inside fall to
    0.02 over about five of the 28 values.

    Returns:
        (num, 28, 28) masks and (num, 4) x0, y0, x1, y1 boxes in pixels.
    """
    rng = np.random.default_rng(seed)
    side, aspect = np.exp(rng.normal(-2.62, 1.0, num)), np.exp(rng.normal(0, 0.77, num))
    side *= np.sqrt(height * width)
    extent = np.stack([side * np.sqrt(aspect), side / np.sqrt(aspect)], axis=1).clip(2, [width, height])
    corner = (rng.uniform(0, [width, height], (num, 2)) - extent / 2).clip(0, [width, height] - extent)
    boxes = torch.tensor(np.concatenate([corner, corner + extent], axis=1), dtype=torch.float32)
    return blobs(rng, num), boxes


def blobs(rng: np.random.Generator, num: int) -> Tensor:
    """(num, 28, 28) probabilities: the sigmoid of an ellipse's distance from its border, plus smooth noise."""
    axis = (np.arange(MASK_SIZE) + 0.5) / MASK_SIZE * 2 - 1
    y, x = np.meshgrid(axis, axis, indexing="ij")
    centre, radius = rng.normal(0, 0.08, (2, num, 1, 1)), rng.uniform(0.7, 1.0, (2, num, 1, 1))
    distance = 1 - np.hypot((x - centre[0]) / radius[0], (y - centre[1]) / radius[1])
    noise = torch.from_numpy(rng.normal(0, 1.5, (num, 1, 6, 6)))
    noise = F.interpolate(noise, size=MASK_SIZE, mode="bicubic", align_corners=True)[:, 0]
    return torch.sigmoid(20 * torch.from_numpy(distance) + noise).float()
