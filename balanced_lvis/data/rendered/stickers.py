"""The objects: characters printed on die-cut stickers, whose outline is the instance."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import shapely

from .glyphs import outline

# In units of the character's larger side. Growing by more than the margin and shrinking again closes narrow gaps.
_GROWTHS = (0.22, 0.3, 0.45, 0.7, 1.5)  # the first that joins all parts of the character on one backing
_MARGIN = 0.09
_TOLERANCE = 0.006  # of the simplified edge: 0.3 pixels in the largest objects of the quick start


@dataclass(frozen=True)
class Sticker:
    """
    A character on its backing, centred at the origin, with y down, scaled to a backing of larger side 1.

    Attributes:
        character: closed curves of the character, float64 arrays of shape (N, 2).
        backing: the backing, a valid polygon without holes.
        extent: width and height of the backing.
    """

    character: tuple[np.ndarray, ...]
    backing: shapely.Polygon
    extent: tuple[float, float]


@cache
def sticker(character: str, face: str) -> Sticker | None:
    """The sticker of a character in a typeface; None if the typeface has no outline for it."""
    shape = outline(character, face)
    if shape is None:
        return None
    backing = _backing(shape.shape)
    left, top, right, bottom = backing.bounds
    centre, size = np.array([left + right, top + bottom]) / 2, max(right - left, bottom - top)
    backing = shapely.transform(backing, lambda points: (points - centre) / size)
    contours = tuple((contour - centre) / size for contour, _ in shape.contours)
    return Sticker(contours, backing, ((right - left) / size, (bottom - top) / size))


def _backing(shape: shapely.Geometry) -> shapely.Polygon:
    for growth in _GROWTHS:
        grown = shapely.union_all([shapely.Polygon(p.exterior) for p in shapely.get_parts(shape.buffer(growth))])
        backing = grown.buffer(_MARGIN - growth).simplify(_TOLERANCE)
        if backing.geom_type == "Polygon":
            return shapely.Polygon(backing.exterior)
    raise AssertionError("the last growth exceeds the size of the character")
