"""Drawing of objects on images of any size, with any class names."""

from __future__ import annotations

import colorsys

import numpy as np
from detectron2.utils.visualizer import ColorMode, Visualizer
from PIL import Image
from pycocotools import mask as mask_util

from .lettering import plain_text

LEAST_DRAWN = 448  # pixels: images with a shorter side are enlarged
LONGEST_ENLARGED = 4096  # pixels of the longer side of an enlarged image
MOST_DRAWN = 16_000_000  # pixels: larger images are reduced, because drawing takes about 120 bytes per pixel
_LEAST_FONT = 5.0  # points; Detectron2 uses half of it for small objects


def draw_objects(pixels, boxes, masks, labels, colors, families) -> np.ndarray:
    """
    Args:
        pixels: (H, W, 3) uint8 RGB.
        boxes: (n, 4) x0, y0, x1, y1 in pixels.
        masks: n RLEs of H x W; None for a model without masks.
        labels: n texts for matplotlib.
        colors: n colours, (r, g, b) in 0..1.
        families: font families with the characters of the labels.

    Returns:
        (sH, sW, 3) uint8 RGB, with small objects drawn over large ones. The scale s is an integer above 1 for small
        images, below 1 for images of more than :data:`MOST_DRAWN` pixels, and 1 otherwise.
    """
    pixels, boxes, masks = _reduced(pixels, boxes, masks)
    with plain_text(families):
        canvas = _Canvas(pixels, _enlargement(*pixels.shape[:2]), families)
        for i in np.argsort(-np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)).tolist():
            # One at a time, because each mask is decoded to one byte per pixel of the image.
            canvas.overlay_instances(
                boxes=boxes[i : i + 1],
                masks=None if masks is None else masks[i : i + 1],
                labels=labels[i : i + 1],
                assigned_colors=colors[i : i + 1],
            )
        return canvas.output.get_image()


def class_color(index: int) -> tuple[float, float, float]:
    """The colour of a class, (r, g, b) in 0..1: steps of the golden ratio give neighbouring classes distinct hues."""
    return colorsys.hsv_to_rgb(index * 0.618034 % 1, 0.75, 0.95)


class _Canvas(Visualizer):
    _default_font_size: float

    def __init__(self, pixels, scale: int, families):
        super().__init__(pixels, scale=scale, instance_mode=ColorMode.SEGMENTATION)
        self._families = list(families)
        # Detectron2's default becomes 0 for images that are enlarged more than tenfold.
        self._default_font_size = max(self._default_font_size, _LEAST_FONT / scale)

    def draw_text(self, *arguments, **options):
        """As in the base class, in fonts that have the characters."""
        output = super().draw_text(*arguments, **options)
        output.ax.texts[-1].set_fontfamily(self._families)
        return output


def _enlargement(height: int, width: int) -> int:
    wanted = round(LEAST_DRAWN / min(height, width))
    return max(1, min(wanted, LONGEST_ENLARGED // max(height, width)))


def _reduced(pixels, boxes, masks):
    height, width = pixels.shape[:2]
    if height * width <= MOST_DRAWN:
        return pixels, boxes, masks
    factor = (MOST_DRAWN / (height * width)) ** 0.5
    new_height, new_width = max(1, int(height * factor)), max(1, int(width * factor))
    rows = (np.arange(new_height) + 0.5) * height / new_height
    columns = (np.arange(new_width) + 0.5) * width / new_width
    at = np.ix_(rows.astype(int), columns.astype(int))
    if masks is not None:
        masks = [mask_util.encode(np.asfortranarray(mask_util.decode(mask)[at])) for mask in masks]
    pixels = np.asarray(Image.fromarray(pixels).resize((new_width, new_height), Image.Resampling.BOX))
    return pixels, boxes * np.array([new_width / width, new_height / height] * 2, boxes.dtype), masks
