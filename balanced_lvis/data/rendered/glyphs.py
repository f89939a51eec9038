"""The categories: characters with clearly different outlines."""

from __future__ import annotations

import itertools
import os
import unicodedata
from dataclasses import dataclass
from functools import cache, lru_cache

import matplotlib
import numpy as np
import shapely
from matplotlib import ft2font
from matplotlib.path import Path as CurvePath
from PIL import Image, ImageDraw

from ...utils.errors import InputError

MAX_CLASSES = 1203  # LVIS-1.0's vocabulary

_BASE_FACE = "DejaVuSans"
_FACES = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique",
    "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic",
    "DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique", "DejaVuSansMono-BoldOblique",
    "STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta",
)  # fmt: skip

# Common letters come first, for small vocabularies. Characters outside these ranges follow in code point order.
_PREFERRED_RANGES = (
    (0x30, 0x39), (0x41, 0x5A), (0x61, 0x7A),  # digits, Latin
    (0x391, 0x3A9), (0x3B1, 0x3C9), (0x410, 0x42F), (0x430, 0x44F),  # Greek, Cyrillic
    (0x531, 0x587), (0x10A0, 0x10FF), (0x5D0, 0x5EA), (0x7C0, 0x7EA),  # Armenian, Georgian, Hebrew, N'Ko
    (0x2D30, 0x2D6F), (0x10300, 0x1032F), (0xE81, 0xEDF),  # Tifinagh, Old Italic, Lao
    (0x1401, 0x1676),  # Canadian syllabics
    (0x0C0, 0x24F), (0x370, 0x3FF), (0x400, 0x52F),  # the other Latin, Greek and Cyrillic letters
)  # fmt: skip
# Ogham, Braille cells, box drawing and block elements are dots and bars; arrows are rotations of one another.
_EXCLUDED_RANGES = ((0x1680, 0x169F), (0x2190, 0x21FF), (0x2500, 0x259F), (0x27F0, 0x28FF), (0x2900, 0x297F))

_GRID = 32  # side in pixels of the square on which outlines are compared
_MAX_IOU = 0.7  # outlines with a larger overlap are too similar
_BATCH = 64


@dataclass(frozen=True)
class Glyph:
    """One category.

    Attributes:
        character: the character itself.
        name: its Unicode name in lower case with underscores; unique, printable ASCII.
        faces: names of the typefaces in which it is drawn, at least one; it was chosen by its outline in the first.
    """

    character: str
    name: str
    faces: tuple[str, ...]


@dataclass(frozen=True)
class Outline:
    """Outline of a character in one face, centred at the origin, with y down, scaled to a box of larger side 1.

    Attributes:
        contours: closed curves, float64 arrays of shape (N, 2), each with a flag for holes, from the largest to the
            smallest: filling curves and clearing holes in this order draws the character.
        shape: the same area as a valid shapely (Multi)Polygon.
        extent: width and height of the box.
    """

    contours: tuple[tuple[np.ndarray, bool], ...]
    shape: shapely.Geometry
    extent: tuple[float, float]


@lru_cache(maxsize=4)
def alphabet(num_classes: int) -> tuple[Glyph, ...]:
    """
    The first ``num_classes`` distinct characters: digits and Latin letters first, then other scripts.

    Latin A, Greek Alpha and Cyrillic A have the same outline and are one category. A smaller alphabet is a prefix of a
    larger one, except that its characters can have more faces, because fewer others resemble them.

    Args:
        num_classes: 1 to 1203.

    Raises:
        InputError: if ``num_classes`` is out of range, or the fonts contain too few distinct characters.
    """
    if not 1 <= num_classes <= MAX_CLASSES:
        raise InputError(f"num_classes is {num_classes}; choose 1 to {MAX_CLASSES}")
    characters, signatures = distinct_characters(num_classes)
    if len(characters) < num_classes:
        raise InputError(
            f"num_classes is {num_classes}, but matplotlib {matplotlib.__version__}'s fonts contain only "
            f"{len(characters)} distinct characters; choose at most that many"
        )
    faces = _unmistakable_faces(characters, signatures)
    return tuple(Glyph(c, character_name(c), f) for c, f in zip(characters, faces))


def character_name(character: str) -> str:
    """The category name of a character: ``latin_small_letter_a``."""
    return unicodedata.name(character).lower().replace(" ", "_")


def distinct_characters(limit: int) -> tuple[list[str], np.ndarray]:
    """
    Choose characters greedily in a fixed order. Characters that are too similar to an earlier one are left out.

    Returns:
        at most ``limit`` characters, and their signatures: (n, 1024) float32 of zeros and ones.
    """
    chosen: list[str] = []
    accepted = np.zeros((0, _GRID * _GRID), np.float32)
    candidates = iter(_candidates())
    while len(chosen) < limit:
        batch = list(itertools.islice(candidates, _BATCH))
        if not batch:
            break
        pairs = [(c, o) for c in batch for o in [outline(c, _BASE_FACE)] if o and _is_legible(o)]
        if not pairs:
            continue
        signatures = np.stack([signature(o) for _, o in pairs])
        far = np.flatnonzero(pairwise_iou(signatures, accepted).max(axis=1, initial=0) <= _MAX_IOU)
        within = pairwise_iou(signatures, signatures)
        kept: list[int] = []
        for i in far.tolist():
            if within[i, kept].max(initial=0) <= _MAX_IOU:
                kept.append(i)
        chosen += [pairs[i][0] for i in kept]
        accepted = np.concatenate([accepted, signatures[kept]])
    return chosen[:limit], accepted[:limit]


def pairwise_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(n, m): intersection over union of the signatures in ``a`` (n, p) with those in ``b`` (m, p)."""
    common = a @ b.T
    return common / np.maximum(a.sum(axis=1)[:, None] + b.sum(axis=1)[None] - common, 1)


def signature(shape: Outline) -> np.ndarray:
    """(1024,) float32 of zeros and ones: the outline, stretched to the unit square and rasterised."""
    big = 2 * _GRID
    canvas = Image.new("L", (big, big))
    draw = ImageDraw.Draw(canvas)
    scale = (big - 1) / np.asarray(shape.extent)
    for contour, is_hole in shape.contours:
        points = (contour + np.asarray(shape.extent) / 2) * scale + 0.5
        draw.polygon(points.astype(int).ravel().tolist(), fill=0 if is_hole else 1)
    cells = np.asarray(canvas, np.float32).reshape(_GRID, 2, _GRID, 2).mean(axis=(1, 3))
    return (cells >= 0.5).astype(np.float32).ravel()


@cache
def outline(character: str, face: str) -> Outline | None:
    """The outline of a character in a face; None if the face lacks it, or its curves intersect themselves."""
    if ord(character) not in _charmap(face):
        return None
    font = _font(face)
    font.load_char(ord(character), _NO_SCALE)
    vertices, codes = font.get_path()
    if len(vertices) == 0:
        return None
    # matplotlib flattens curves to a fraction of a unit: one em is 2,000 units here.
    vertices = vertices * (2000 / font.units_per_EM * 64)
    contours = [c for c in map(np.asarray, CurvePath(vertices, codes).to_polygons(closed_only=True)) if len(c) > 3]
    return _normalised(contours)


def _normalised(contours: list[np.ndarray]) -> Outline | None:
    if not contours:
        return None
    points = np.concatenate(contours)
    low, high = points.min(axis=0), points.max(axis=0)
    size = float((high - low).max())
    if (high - low).min() <= 0:
        return None
    scaled = _nested([(c - (low + high) / 2) / size * (1.0, -1.0) for c in contours])
    shape = _as_area(scaled)
    width, height = (high - low) / size
    return None if shape is None else Outline(scaled, shape, (float(width), float(height)))


def _as_area(contours) -> shapely.Geometry | None:
    area = shapely.Polygon()
    for contour, is_hole in contours:
        piece = shapely.Polygon(contour)
        if not piece.is_valid:
            return None
        area = area.difference(piece) if is_hole else area.union(piece)
    return area if area.geom_type in ("Polygon", "MultiPolygon") and not area.is_empty else None


def _nested(contours: list[np.ndarray]) -> tuple[tuple[np.ndarray, bool], ...]:
    areas = [_signed_area(c) for c in contours]
    order = sorted(range(len(areas)), key=lambda i: -abs(areas[i]))
    # The orientation of a hole is opposite to that of the outermost contour.
    return tuple((contours[i], areas[i] * areas[order[0]] < 0) for i in order)


def _signed_area(contour: np.ndarray) -> float:
    x, y = contour[:, 0], contour[:, 1]  # the last point repeats the first
    return float(np.dot(x[:-1], y[1:]) - np.dot(y[:-1], x[1:])) / 2


def _is_legible(shape: Outline) -> bool:
    """Whether it can be recognised at the smallest size: neither very thin, nor solid, nor in many parts."""
    if not _is_compact(shape):
        return False
    parts = shapely.get_parts(shape.shape)
    holes = sum(len(p.interiors) for p in parts)
    if len(parts) > 6 or holes > 6 or min(p.area for p in parts) < 0.006:
        return False
    # 4% of the larger side is about a pixel in the smallest instances of the default dataset.
    return shape.shape.buffer(-0.02, quad_segs=1).area > 0.3 * shape.shape.area


def _is_compact(shape: Outline) -> bool:
    width, height = shape.extent
    return min(width, height) >= 0.3 and 0.15 <= shape.shape.area / (width * height) <= 0.78


def _unmistakable_faces(characters: list[str], signatures: np.ndarray) -> list[tuple[str, ...]]:
    """For each character, the faces in which its outline is closest to its own signature."""
    found: list[list[str]] = [[_BASE_FACE] for _ in characters]
    for face in _FACES[1:]:
        outlines = [outline(c, face) for c in characters]
        entries = [(i, o) for i, o in enumerate(outlines) if o and _is_compact(o)]
        if not entries:
            continue
        owners = np.array([i for i, _ in entries])
        nearest = pairwise_iou(np.stack([signature(o) for _, o in entries]), signatures).argmax(axis=1)
        for i in owners[nearest == owners]:
            found[i].append(face)
    return [tuple(f) for f in found]


def _candidates() -> list[str]:
    def rank(code: int) -> tuple[int, int]:
        for i, (low, high) in enumerate(_PREFERRED_RANGES):
            if low <= code <= high:
                return i, code
        return len(_PREFERRED_RANGES), code

    codes = [c for c in _charmap(_BASE_FACE) if not any(low <= c <= high for low, high in _EXCLUDED_RANGES)]
    # Modifiers (Lm, Sk) are small copies of other characters, punctuation is mostly dots and strokes.
    kinds = ("Lu", "Ll", "Lt", "Lo", "N", "Sm", "Sc", "So")
    ordered = [chr(c) for c in sorted(codes, key=rank)]
    return [c for c in ordered if unicodedata.category(c).startswith(kinds) or c in "&@#%?"]


# matplotlib 3.10 turned the constants into an enumeration.
_NO_SCALE = ft2font.LoadFlags.NO_SCALE if hasattr(ft2font, "LoadFlags") else ft2font.LOAD_NO_SCALE  # type: ignore[attr-defined]

# Before 3.11, outlines are 8 times narrower without this option, which 3.11 deprecates.
_NO_HINTING: dict = {"hinting_factor": 1} if matplotlib.__version_info__ < (3, 11) else {}


@cache
def _font(face: str):
    return ft2font.FT2Font(os.path.join(matplotlib.get_data_path(), "fonts", "ttf", face + ".ttf"), **_NO_HINTING)


@cache
def _charmap(face: str) -> dict[int, int]:
    return _font(face).get_charmap()
