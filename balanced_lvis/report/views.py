"""
Views: parts of images with outlines of objects and detections, as small as a page with hundreds of them needs.

The image and the outlines are stored apart, so that the page can show or hide each of them.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image
from pycocotools import mask as mask_util

# Longest side in pixels of the stored image, and in units of the coordinates of outlines.
CROP_PIXELS, CROP_UNITS = 160, 320
IMAGE_PIXELS, IMAGE_UNITS = 512, 1024
QUALITY = 70
_MARGIN = 0.35  # of the longer side of a crop's content, on each side
_LEAST_SIDE = 48  # pixels of the image
_TOLERANCE = 1.2  # units by which a simplified outline may differ


@dataclass(frozen=True)
class Window:
    """
    A part of an image.

    Attributes:
        left, top, width, height: in pixels of the image.
    """

    left: int
    top: int
    width: int
    height: int

    def scale(self, longest: int) -> float:
        """Factor by which the longer side becomes ``longest``."""
        return longest / max(self.width, self.height)


@dataclass(frozen=True)
class Mark:
    """
    An object or a detection to outline.

    Attributes:
        run: number of the run; -1 for an annotated object.
        category: rank of the category.
        score: of a detection, else None.
        true: whether a detection is a true positive; None for an object.
        box: x, y, w, h in pixels of the image.
        rle: RLE mask of the image; None without masks.
    """

    run: int
    category: int
    score: float | None
    true: bool | None
    box: Sequence[float]
    rle: dict | None


def window_around(boxes: Sequence[Sequence[float]], height: int, width: int) -> Window:
    """
    A square around boxes with a margin, as far as the image permits.

    Args:
        boxes: x, y, w, h in pixels.
        height, width: of the image.
    """
    x0, y0 = min(box[0] for box in boxes), min(box[1] for box in boxes)
    x1, y1 = max(box[0] + box[2] for box in boxes), max(box[1] + box[3] for box in boxes)
    side = max(_LEAST_SIDE, max(x1 - x0, y1 - y0) * (1 + 2 * _MARGIN))
    left, right = _clipped((x0 + x1) / 2, side, width)
    top, bottom = _clipped((y0 + y1) / 2, side, height)
    return Window(left, top, right - left, bottom - top)


def _clipped(centre: float, side: float, length: int) -> tuple[int, int]:
    """Both ends of a range of ``side`` pixels, moved into an image of ``length`` pixels."""
    size = min(round(side), length)
    begin = min(max(round(centre - size / 2), 0), length - size)
    return begin, begin + size


def draw_view(pixels: np.ndarray, window: Window, marks: Sequence[Mark], longest: int, units: int) -> dict:
    """
    Args:
        pixels: (H, W, 3) uint8 RGB.
        window: the part to show.
        marks: what is outlined.
        longest: pixels of the longer side of the stored image; a smaller part is not enlarged.
        units: units of the longer side, for outlines.

    Returns:
        "src" is a data URI, "size" the width and height in units, and "marks" the outlines: "r" run, "c" category,
        "s" score, "t" whether it is true, "b" box and "p" path in units.
    """
    scale = window.scale(units)
    size = [max(1, round(window.width * scale)), max(1, round(window.height * scale))]
    return {
        "src": _data_uri(pixels, window, longest),
        "size": size,
        "marks": [_drawn(mark, window, scale, size) for mark in marks],
    }


def _data_uri(pixels: np.ndarray, window: Window, longest: int) -> str:
    image = Image.fromarray(pixels[window.top : window.top + window.height, window.left : window.left + window.width])
    scale = window.scale(longest)
    if scale < 1:
        size = max(1, round(window.width * scale)), max(1, round(window.height * scale))
        image = image.resize(size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=QUALITY, method=4)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _drawn(mark: Mark, window: Window, scale: float, size: Sequence[int]) -> dict:
    x, y, w, h = mark.box
    box = ((x - window.left) * scale, (y - window.top) * scale, w * scale, h * scale)
    drawn: dict = {"r": mark.run, "c": mark.category, "b": [round(value) for value in box]}
    if mark.score is not None:
        drawn |= {"s": round(mark.score, 4), "t": int(bool(mark.true))}
    if mark.rle is not None:
        drawn["p"] = outline(mask_util.decode(mark.rle), window, size)
    return drawn


def outline(mask: np.ndarray, window: Window, size: Sequence[int]) -> str:
    """
    Outline of a mask within a window, as an SVG path to be filled by the even-odd rule.

    Args:
        mask: (H, W) 0 and 1, of the image.
        window: part of the image.
        size: width and height of the window in units.
    """
    part = mask[window.top : window.top + window.height, window.left : window.left + window.width]
    if not part.any():
        return ""
    enlarged = cv2.resize(part * np.uint8(255), (size[0], size[1]), interpolation=cv2.INTER_LINEAR)
    contours, _ = cv2.findContours((enlarged > 127).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    lines = [cv2.approxPolyDP(contour, _TOLERANCE, True)[:, 0].tolist() for contour in contours]
    return "".join(f"M{' '.join(f'{x} {y}' for x, y in line)}Z" for line in lines if len(line) > 2)
