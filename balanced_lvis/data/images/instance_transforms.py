"""
Transforms of the annotations of an image to instances, bit-identical to Detectron2's.

Detectron2 transforms each box and each polygon on its own. Here, all points of an image are transformed at once where
that makes no difference, and masks are rasterised without copies of empty pixels.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, Boxes, BoxMode, Instances, PolygonMasks
from pycocotools import mask as mask_util

# Transforms that act on each coordinate of a point on its own, and on polygons by their points.
_PER_COORDINATE = (T.NoOpTransform, T.HFlipTransform, T.VFlipTransform, T.ResizeTransform)
_FEWEST = 6  # coordinates of a polygon
_THINNEST = 1e-5  # pixels, the limit of Detectron2 for a side of a box
_EXACT = 2**24  # integers up to this are exact in float32
# The corners of a box, by their places in x0, y0, x1, y1.
_PLACES = [0, 1, 2, 1, 0, 3, 2, 3]


def to_instances(
    annotations: Sequence[dict], transforms: T.TransformList, size: tuple[int, int], mask_format: str
) -> Instances | None:
    """
    Args:
        annotations: objects in Detectron2's standard format, without keypoints; not modified.
        transforms: the transforms of the image.
        size: height, width of the transformed image.
        mask_format: "polygon" or "bitmask".

    Returns:
        the instances of Detectron2's ``annotations_to_instances``; None if only Detectron2 supports the annotations or
        transforms.
    """
    if not all(type(one) in _PER_COORDINATE for one in transforms.transforms):
        return None
    masks = [annotation.get("segmentation") for annotation in annotations]
    has_masks = any("segmentation" in annotation for annotation in annotations)
    if not _are_usual_boxes(annotations) or (has_masks and not all(map(_are_usual_polygons, masks))):
        return None
    polygons = list(itertools.chain.from_iterable(masks)) if has_masks else []  # type: ignore[arg-type]
    corners = _corners([annotation["bbox"] for annotation in annotations])
    numbers = np.fromiter(itertools.chain.from_iterable(polygons), np.float64, sum(map(len, polygons)))
    points = transforms.apply_coords(np.concatenate([corners, numbers]).reshape(-1, 2)).reshape(-1)
    instances = Instances(size)
    instances.gt_boxes = Boxes(_boxes_of(points[: len(corners)].reshape(-1, 4, 2), size))
    instances.gt_classes = torch.tensor([int(one["category_id"]) for one in annotations], dtype=torch.int64)
    if has_masks:
        ends = np.cumsum([len(polygon) for polygon in polygons])
        parts = iter(np.split(points[len(corners) :], ends[:-1]))
        transformed = [list(itertools.islice(parts, len(mask))) for mask in masks]  # type: ignore[arg-type]
        if mask_format == "polygon":
            instances.gt_masks = PolygonMasks(transformed)
        else:
            instances.gt_masks = _bitmasks(transformed, *size)
    return instances


def masks_to_instances(annotations: Sequence[dict], size: tuple[int, int], mask_format: str) -> Instances:
    """As Detectron2's ``annotations_to_instances``, for annotations that have been transformed."""
    masks = [annotation.get("segmentation") for annotation in annotations]
    if mask_format != "bitmask" or not masks or not all(isinstance(mask, list) and mask for mask in masks):
        return utils.annotations_to_instances(annotations, size, mask_format=mask_format)
    without = [{key: one[key] for key in one.keys() - {"segmentation"}} for one in annotations]
    instances = utils.annotations_to_instances(without, size)
    instances.gt_masks = _bitmasks(masks, *size)  # type: ignore[arg-type]  # lists, as checked above
    return instances


def _are_usual_boxes(annotations: Sequence[dict]) -> bool:
    """Whether all boxes are lists with a float, for which Detectron2's arrays have floating-point types."""
    boxes = [annotation["bbox"] for annotation in annotations]
    return {annotation["bbox_mode"] for annotation in annotations} <= {BoxMode.XYWH_ABS} and all(
        type(box) is list and len(box) == 4 and float in map(type, box) and max(map(abs, box)) < _EXACT for box in boxes
    )


def _are_usual_polygons(mask) -> bool:
    return (
        type(mask) is list
        and len(mask) > 0
        and all(
            type(polygon) is list and len(polygon) >= _FEWEST and len(polygon) % 2 == 0 and float in map(type, polygon)
            for polygon in mask
        )
    )


def _corners(boxes: list[list]) -> np.ndarray:
    """(8N,) x and y of the four corners of each box."""
    # Detectron2 converts lists in float32.
    corners = np.array(boxes, np.float32).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    return corners.astype(np.float64)[:, _PLACES].reshape(-1)


def _boxes_of(corners: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(N, 4): the boxes around (N, 4, 2) corners, clipped to the image."""
    boxes = np.concatenate([corners.min(1), corners.max(1)], 1).clip(min=0)
    return np.minimum(boxes, [*size, *size][::-1])


def _bitmasks(polygons: list[list], height: int, width: int) -> BitMasks:
    # The system clears new memory page by page. Pages without a pixel of a mask are never written.
    masks = np.zeros((len(polygons), height, width), bool)
    for mask, one in zip(masks, polygons):
        _draw(mask, one)
    return BitMasks(torch.from_numpy(masks))


def _draw(mask: np.ndarray, polygons: list) -> None:
    """Set the pixels of Detectron2's ``polygons_to_bitmask`` in an empty (H, W) mask."""
    width, height = _size_of_part(polygons, mask.shape)
    rle = mask_util.merge(mask_util.frPyObjects(polygons, height, width))
    x, y, w, h = mask_util.toBbox(rle).astype(int).tolist()
    mask[y : y + h, x : x + w] = mask_util.decode(rle)[y : y + h, x : x + w]


def _size_of_part(polygons: list, shape: tuple[int, ...]) -> list[int]:
    """
    Width and height of a part of the image from its origin that contains the polygons of an object.

    pycocotools uses the size of an image only to cut off what is outside. The origin must stay: where an edge passes
    exactly between two pixels, its choice depends on the rounding of coordinates.
    """
    size = np.array(shape[::-1])
    furthest = np.concatenate(polygons).reshape(-1, 2).max(0)
    # False for NaN and infinity, too.
    is_inside = (furthest >= 0) & (furthest < size - 2)
    return np.where(is_inside, np.where(is_inside, furthest, 0).astype(int) + 2, size).tolist()


def without_empty(instances: Instances) -> Instances:
    """The instances of Detectron2's ``filter_empty_instances``."""
    x0, y0, x1, y1 = instances.gt_boxes.tensor.numpy().T
    kept = (x1 - x0 > _THINNEST) & (y1 - y0 > _THINNEST)
    if instances.has("gt_masks"):
        masks = instances.gt_masks
        # NumPy stops at the first pixel.
        filled = map(np.any, masks.tensor.numpy()) if isinstance(masks, BitMasks) else map(len, masks.polygons)
        kept &= np.fromiter(filled, bool, len(masks))
    return instances if kept.all() else instances[torch.from_numpy(kept)]
