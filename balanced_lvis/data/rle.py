"""RLE of the masks of annotations."""

from __future__ import annotations

from collections.abc import Mapping

from pycocotools import mask as mask_util


def rle_of(segmentation: list | Mapping, height: int, width: int) -> dict:
    """
    Compressed RLE of a mask in any of the forms of an annotation file, as the LVIS API rasterises it.

    Args:
        segmentation: polygons, or an RLE whose counts are a list, a str or bytes.
        height, width: size of the image in pixels.

    Returns:
        {"size": [height, width], "counts": bytes}.
    """
    if isinstance(segmentation, list):
        return mask_util.merge(mask_util.frPyObjects(segmentation, height, width))
    counts = segmentation["counts"]
    if isinstance(counts, list):
        return mask_util.frPyObjects(dict(segmentation), height, width)
    return {**segmentation, "counts": counts.encode() if isinstance(counts, str) else counts}
