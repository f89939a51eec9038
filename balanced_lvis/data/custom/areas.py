"""The area of an annotation that has none."""

from __future__ import annotations

from pycocotools import mask as mask_util

_FURTHEST = 1 << 18  # pixels that a corner may be away; pycocotools draws every pixel of an outline
_LARGEST_IMAGE = 1 << 31  # pixels; pycocotools counts in 32 bits


def mask_area(segmentation: list[list] | dict, width: int, height: int) -> float:
    """
    Pixels of a mask in its image, as pycocotools counts them: what is outside doesn't count, and what several polygons
    cover counts once.

    Args:
        segmentation: polygons, or an RLE mask that can be decoded.
        width, height: of the image.

    Raises:
        ValueError: for polygons that can't be drawn.
    """
    if isinstance(segmentation, dict):
        return float(mask_util.area(segmentation))
    for polygon in segmentation:
        if len(polygon) < 6 or len(polygon) % 2:
            raise ValueError("a polygon has fewer than three points, or an odd number of coordinates")
        if not {float, int}.issuperset(map(type, polygon)):
            raise ValueError(f"a polygon is {polygon!r:.60}")
        if not all(-_FURTHEST <= value <= _FURTHEST for value in polygon):
            raise ValueError(f"a polygon reaches beyond {_FURTHEST:,} pixels, so that its area can't be computed")
    if width * height > _LARGEST_IMAGE:
        raise ValueError(f"an image of {width} x {height} pixels is too large to compute areas in")
    return float(mask_util.area(mask_util.merge(mask_util.frPyObjects(segmentation, height, width))))
