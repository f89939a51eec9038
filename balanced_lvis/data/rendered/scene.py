"""Placement, occlusion and painting of the stickers in one image, and their polygons."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely

from .glyphs import Glyph
from .paint import background, contrasting_colour, coverage, paint
from .stickers import sticker

_MAX_ANGLE = np.deg2rad(25)
_MAX_ASPECT = 4 / 3
_OVERHANG = 0.08  # share of an object's size that may be outside the image
_MIN_INSIDE = 0.85  # share of a new object's area inside the image
_MIN_VISIBLE = 0.55  # share of an object's area that later objects leave visible
_TRIES = 80
_TRIES_PER_SIZE = 10
_SHRINK = 0.88
_MIN_AREA = 0.06  # visible area of an object, in squares of the smallest side of objects, ...
_MIN_PIXELS = 10  # ... and in pixels
_CRUMB = 0.5  # square pixels; smaller parts and holes are not annotated


@dataclass(frozen=True)
class SceneObject:
    """A drawn object.

    Attributes:
        category: index into the alphabet.
        visible: its area that no later object covers, clipped to the image; a valid shapely (Multi)Polygon.
    """

    category: int
    visible: shapely.Geometry


@dataclass(frozen=True)
class Scene:
    """One drawn image.

    Attributes:
        image: uint8 array of shape (height, width, 3), RGB.
        objects: in painting order; later ones cover earlier ones.
        id_map: int32 array of shape (height, width): 1 + the index of the last painted object that covers more than
            half of the pixel; 0 for background.
    """

    image: np.ndarray
    objects: tuple[SceneObject, ...]
    id_map: np.ndarray


@dataclass
class _Placed:
    category: int
    edge: np.ndarray
    character: list[np.ndarray]
    visible: shapely.Geometry
    area: float


def draw_scene(
    glyphs: tuple[Glyph, ...],
    categories: list[int],
    image_size: tuple[int, int],
    object_scale: tuple[float, float],
    rng: np.random.Generator,
) -> Scene:
    """
    Place and paint one object of each of ``categories``, in this order.

    At least 55% of each object stays visible. An object that is hard to place becomes smaller.

    Args:
        categories: indices into ``glyphs``; repeats are separate objects.
        image_size: height and width in pixels.
        object_scale: range of an object's larger side before rotation, relative to the image's shorter side.
    """
    placed = _place_all(glyphs, categories, image_size, object_scale, rng)
    canvas = background(image_size, rng)
    id_map = np.zeros(image_size, np.int32)
    for number, item in enumerate(placed, start=1):
        box = _pixel_box(item.edge, image_size)
        cover = coverage([item.edge], box)
        crop = canvas[box]
        colour = contrasting_colour(crop, rng)
        paint(crop, cover, colour, rng)
        paint(crop, coverage(item.character, box), contrasting_colour(colour[None, None], rng), rng)
        id_map[box][cover > 0.5] = number
    canvas += rng.normal(0, rng.uniform(0.005, 0.02), canvas.shape).astype(np.float32)
    image = np.rint(canvas.clip(0, 1) * 255).astype(np.uint8)
    return Scene(image, tuple(SceneObject(p.category, p.visible) for p in placed), id_map)


def to_polygons(visible: shapely.Geometry, image_size: tuple[int, int]) -> list[list[float]]:
    """
    COCO polygons whose union is ``visible``, rounded to 2 decimals and inside the image.

    COCO polygons have no holes, so that a shape is cut in two through each of its holes.

    Returns:
        lists x1, y1, x2, y2, ... of at least 3 points. Parts of less than half a square pixel are left out.
    """
    height, width = image_size
    polygons: list[list[float]] = []
    for part in sorted(_parts(visible), key=lambda p: -p.area):
        if polygons and part.area < _CRUMB:
            continue
        holes = [h for h in part.interiors if shapely.Polygon(h).area >= _CRUMB]
        for piece in _without_holes(shapely.Polygon(part.exterior, holes)):
            points = np.round(np.asarray(piece.exterior.coords)[:-1], 2).clip(0, (width, height))
            points = points[(points != np.roll(points, 1, axis=0)).any(axis=1)]
            if len(points) >= 3:
                polygons.append(points.ravel().tolist())
    return polygons


def _without_holes(polygon: shapely.Polygon) -> list[shapely.Polygon]:
    if not polygon.interiors:
        return [polygon]
    left, low, right, high = polygon.bounds
    hole = max(polygon.interiors, key=lambda h: h.bounds[3] - h.bounds[1])
    x = (hole.bounds[0] + hole.bounds[2]) / 2
    halves = (shapely.box(left - 1, low - 1, x, high + 1), shapely.box(x, low - 1, right + 1, high + 1))
    parts = [part for half in halves for part in _parts(polygon.intersection(half))]
    return [piece for part in parts for piece in _without_holes(part)]


def _parts(area: shapely.Geometry) -> list[shapely.Polygon]:
    return [p for p in shapely.get_parts(area) if p.geom_type == "Polygon" and not p.is_empty]


def _place_all(glyphs, categories, image_size, object_scale, rng) -> list[_Placed]:
    # If the last object fits at no size, start again with smaller objects.
    for restart in range(12):
        scale = np.asarray(object_scale) * 0.85**restart
        smallest = max(_MIN_AREA * (scale[0] * min(image_size)) ** 2, _MIN_PIXELS)
        placed: list[_Placed] = []
        for category in categories:
            if not _place(placed, glyphs[category], category, image_size, scale, smallest, rng):
                break
        else:
            return placed
    raise RuntimeError(f"{len(categories)} objects do not fit into an image of {image_size} pixels")


def _place(placed, glyph, category, image_size, scale, smallest, rng) -> bool:
    """Append the object to ``placed`` and update the visible areas of the others, if there is enough space."""
    shape = sticker(glyph.character, glyph.faces[rng.integers(len(glyph.faces))])
    assert shape is not None  # alphabets have characters with an outline only
    size = np.exp(rng.uniform(*np.log(scale))) * min(image_size)
    for attempt in range(_TRIES):
        matrix, shift = _pose(shape.extent, size * _SHRINK ** (attempt // _TRIES_PER_SIZE), image_size, rng)
        area = shapely.transform(shape.backing, lambda p, m=matrix, s=shift: p @ m + s)
        inside = _polygonal(area.intersection(shapely.box(0, 0, image_size[1], image_size[0])))
        if inside.area < _MIN_INSIDE * area.area or (inside.area < smallest and attempt >= _TRIES_PER_SIZE):
            continue
        left = [_polygonal(shapely.difference(p.visible, inside)) for p in placed]
        needed = [max(_MIN_VISIBLE * p.area, min(smallest, _MIN_INSIDE * p.area)) for p in placed]
        if any(v.area < n for v, n in zip(left, needed)):
            continue
        for item, visible in zip(placed, left):
            item.visible = visible
        character = [c @ matrix + shift for c in shape.character]
        placed.append(_Placed(category, np.asarray(area.exterior.coords), character, inside, inside.area))
        return True
    return False


def _pose(extent, size, image_size, rng) -> tuple[np.ndarray, np.ndarray]:
    """A random affine map from outline to pixels: points @ matrix + shift."""
    stretch = np.exp(rng.uniform(-1, 1) * np.log(_MAX_ASPECT) / 2)
    scale = np.array([stretch, 1 / stretch])
    scale *= size / max(np.asarray(extent) * scale)
    angle = rng.uniform(-_MAX_ANGLE, _MAX_ANGLE)
    cos, sin = np.cos(angle), np.sin(angle)
    matrix = np.diag(scale) @ np.array([[cos, sin], [-sin, cos]])
    half = np.abs(matrix).T @ np.asarray(extent) / 2
    low = np.minimum(half - _OVERHANG * size, np.array(image_size[::-1]) / 2)
    return matrix, rng.uniform(low, np.array(image_size[::-1]) - low)


def _polygonal(area: shapely.Geometry) -> shapely.Geometry:
    """Remove the points and lines that overlays return where outlines touch."""
    if area.geom_type in ("Polygon", "MultiPolygon"):
        return area
    return shapely.MultiPolygon(_parts(area))


def _pixel_box(edge, image_size) -> tuple[slice, slice]:
    low = np.floor(edge.min(axis=0)).astype(int)
    high = np.ceil(edge.max(axis=0)).astype(int) + 1
    columns, rows = (slice(max(0, a), min(n, b)) for a, b, n in zip(low, high, image_size[::-1]))
    return rows, columns
