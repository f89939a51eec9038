"""
COCO RLE of predicted masks, computed without pasting them into the image.

Shape shorthand: n masks of M x M values, an image of H x W pixels, E edges and R runs of all masks together.
"""

from __future__ import annotations

import math

import numpy as np
from detectron2.structures import Boxes
from pycocotools import mask as mask_util
from torch import Tensor

from ..utils.errors import InputError
from .pasting import mask_edges


def masks_to_rle(
    masks: Tensor, boxes: Tensor | Boxes, image_size: tuple[int, int], threshold: float = 0.5
) -> list[dict]:
    """
    Encode masks like Detectron2's ``paste_masks_in_image`` and ``pycocotools.mask.encode`` on the CPU, byte for byte.

    A box without a pixel in the image gets an empty mask; Detectron2 raises an error.

    Args:
        masks: (n, M, M) output of the mask head, each relative to its box, on any device.
        boxes: (n, 4) finite x0, y0, x1, y1 in pixels of the image.
        image_size: H, W in pixels.
        threshold: lowest value inside the mask.

    Returns:
        n RLE masks {"size": [H, W], "counts": str}.

    Raises:
        InputError: for other shapes, boxes that are not finite, an image without pixels or a negative threshold.
    """
    masks = masks.detach().cpu()
    boxes = (boxes.tensor if isinstance(boxes, Boxes) else boxes).detach().cpu()
    height, width = map(int, image_size)
    _check(masks, boxes, (height, width), threshold)
    if not len(masks):
        return []
    masks, boxes = (x if x.is_floating_point() else x.float() for x in (masks, boxes))
    edges = mask_edges(masks, boxes, height, width, threshold)
    runs, num_runs = _run_lengths(edges, len(masks), height * width)
    uncompressed = [{"size": (height, width), "counts": r} for r in np.split(runs, np.cumsum(num_runs)[:-1])]
    rles = mask_util.frPyObjects(uncompressed, height, width)
    return [{**rle, "counts": rle["counts"].decode("ascii")} for rle in rles]


def _check(masks: Tensor, boxes: Tensor, image_size: tuple[int, int], threshold: float) -> None:
    if masks.dim() != 3 or masks.shape[1] != masks.shape[2] or not masks.shape[2]:
        raise InputError(f"masks have shape {tuple(masks.shape)}; expected (n, M, M), with M of 1 or more.")
    if boxes.shape != (len(masks), 4):
        raise InputError(f"boxes have shape {tuple(boxes.shape)}; expected ({len(masks)}, 4), one for each mask.")
    if not boxes.isfinite().all():
        raise InputError("boxes contain infinite values or NaN; remove those detections first.")
    if min(image_size) < 1:
        raise InputError(f"image_size is {image_size}; expected a height and a width of 1 pixel or more.")
    if not 0 <= threshold < math.inf:
        raise InputError(f"threshold is {threshold}; expected 0 or more.")


def _run_lengths(edges: np.ndarray, num_masks: int, num_pixels: int) -> tuple[np.ndarray, np.ndarray]:
    """
    Args:
        edges: (E,) from :func:`balanced_lvis.evaluation.pasting.mask_edges`.

    Returns:
        (R,) lengths of alternating runs outside and inside, mask by mask, each starting with a run outside, whose
        length may be 0; and (n,) the number of runs of each mask.
    """
    mask, place = np.divmod(edges, num_pixels + 1)
    before_end = place < num_pixels  # no run begins at the end of an image
    num_runs = np.bincount(mask[before_end], minlength=num_masks) + 1
    last = np.cumsum(num_runs) - 1
    stops = np.full(num_runs.sum(), num_pixels)
    is_last = np.zeros(len(stops), bool)
    is_last[last] = True
    stops[~is_last] = place[before_end]
    starts = np.roll(stops, 1)
    starts[last - num_runs + 1] = 0
    return stops - starts, num_runs
