"""Comparisons of annotations with each other and with their images, for all annotations of a file at once."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ...utils.findings import SHOWN, Findings

TOLERANCE = 1.0  # pixels; coordinates of COCO and LVIS are rounded
FAR = 1e9  # pixels; corners are clipped to this
_BOX_TOLERANCE = 2.0  # pixels between the edges of box and mask; for a larger mask, the share of its side:
_BOX_TOLERANCE_SHARE = 0.05
_PRIME = np.uint64(0x9E3779B97F4A7C15)


class Extents:
    """Corners of the boxes, or of the bounding boxes of the masks, of annotations: 20 bytes each."""

    def __init__(self):
        self._rows, self._corners = array("i"), array("f")

    def add(self, row: int, x0: float, y0: float, x1: float, y1: float) -> None:
        """
        Args:
            row: position of the annotation in the file, from 0.
            x0, y0, x1, y1: finite, in pixels.
        """
        if x0 < -FAR or y0 < -FAR or x1 > FAR or y1 > FAR:
            x0, y0, x1, y1 = (min(max(value, -FAR), FAR) for value in (x0, y0, x1, y1))
        self._rows.append(row)
        self._corners.extend((x0, y0, x1, y1))

    def add_all(self, first_row: int, corners: np.ndarray) -> None:
        """
        Add consecutive annotations.

        Args:
            first_row: position of the first one in the file, from 0.
            corners: (n, 4) x0, y0, x1, y1, from -:data:`FAR` to :data:`FAR`.
        """
        self._rows.extend(range(first_row, first_row + len(corners)))
        self._corners.frombytes(corners.astype(np.float32).tobytes())

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(n,) rows, (n, 2) lower x and y, (n, 2) upper."""
        corners = np.array(self._corners, np.float32).reshape(-1, 4)
        return np.array(self._rows, np.int64), corners[:, :2], corners[:, 2:]


class Annotations(NamedTuple):
    """
    All annotations of a file.

    Attributes:
        ids, image_ids: (A,).
        category_ids: (A,).
        known: (A,) bool, whether the annotation's image is in the file.
        sizes: (A, 2) width and height of that image.
        boxes: boxes with four finite numbers.
        masks: masks that could be read.
        contents: (M,) a hash of each of ``masks``.
    """

    ids: np.ndarray
    image_ids: np.ndarray
    category_ids: np.ndarray
    known: np.ndarray
    sizes: np.ndarray
    boxes: Extents
    masks: Extents
    contents: np.ndarray

    def name(self, row: int) -> str:
        """Name for messages."""
        return f"annotation {self.ids[row]} of image {self.image_ids[row]}"

    def sized(self, row: int) -> str:
        """Name with the image's size, for messages."""
        width, height = self.sizes[row].astype(int).tolist()
        return f"{self.name(row)}, which is {width} x {height}"


def compare(all_: Annotations, wrong: np.ndarray, findings: Findings) -> None:
    """
    Report problems. Each box is reported for one kind of problem only.

    Args:
        all_: all annotations of the file.
        wrong: annotations whose mask is known to be wrong.
        findings: receives the problems.
    """
    if _normalised(all_):
        wrong = all_.boxes.arrays()[0]
        _add(findings, "boxes_normalised", wrong, all_.name)
    else:
        wrong = np.concatenate([wrong, _check_edges(all_, wrong, findings)])
        wrong = np.concatenate([wrong, _check_boxes_of_masks(all_, wrong, findings)])
    _check_repeated(all_, wrong, findings)


def _add(findings: Findings, kind: str, rows: np.ndarray, describe: Callable[[int], str]) -> None:
    """Report annotations, possibly all of the file; only those that are shown are described."""
    if len(rows):
        findings.add_all(kind, [describe(row) for row in rows[:SHOWN].tolist()], len(rows))


def _normalised(all_: Annotations) -> bool:
    _, low, high = all_.boxes.arrays()
    return bool(len(low) and (low >= 0).all() and (high <= 1).all() and (all_.sizes > 1).any())


def _check_edges(all_: Annotations, wrong: np.ndarray, findings: Findings) -> np.ndarray:
    """Report boxes and masks that exceed their image; returns their annotations."""
    found = []
    for what, extents in (("box", all_.boxes), ("polygon", all_.masks)):
        rows, low, high = extents.arrays()
        kept = all_.known[rows] & ~np.isin(rows, wrong if what == "polygon" else ())
        rows, low, high = rows[kept], low[kept], high[kept]
        off = ((low >= all_.sizes[rows]) | (high <= 0)).any(1) if what == "box" else np.zeros(len(rows), bool)
        over = ((low < -TOLERANCE) | (high > all_.sizes[rows] + TOLERANCE)).any(1) & ~off
        for kind, which in ((f"{what}_off_image", off), (f"{what}_outside_image", over)):
            _add(findings, kind, rows[which], all_.sized)
            found.append(rows[which])
    return np.concatenate(found)


def _check_boxes_of_masks(all_: Annotations, but: np.ndarray, findings: Findings) -> np.ndarray:
    """Report boxes that differ from their masks; returns their annotations."""
    rows, low, high = all_.boxes.arrays()
    of_masks, mask_low, mask_high = all_.masks.arrays()
    rows, box, mask = np.intersect1d(rows, of_masks, assume_unique=True, return_indices=True)
    limit = _BOX_TOLERANCE_SHARE * (mask_high[mask] - mask_low[mask])
    limit = np.maximum(limit, _BOX_TOLERANCE)
    off = np.maximum(np.abs(low[box] - mask_low[mask]), np.abs(high[box] - mask_high[mask])) > limit
    differs = off.any(1) & all_.known[rows] & ~np.isin(rows, but)
    examples = []
    for place in np.flatnonzero(differs)[:SHOWN].tolist():
        corners = [(low[box[place]], high[box[place]]), (mask_low[mask[place]], mask_high[mask[place]])]
        shown = [f"{x0:g}, {y0:g} to {x1:g}, {y1:g}" for (x0, y0), (x1, y1) in corners]
        examples.append(f"{all_.name(rows[place])}: box {shown[0]}, mask {shown[1]}")
    if examples:
        findings.add_all("box_differs", examples, int(differs.sum()))
    return rows[differs]


def _check_repeated(all_: Annotations, but: np.ndarray, findings: Findings) -> None:
    """Report repeated masks and boxes of a category in an image, except for boxes that are wrong anyway."""
    again: dict[int, int] = {}  # annotation -> the first equal one
    of_boxes, low, high = all_.boxes.arrays()
    kept = np.flatnonzero(~np.isin(of_boxes, but))
    for rows, *columns in (
        (of_boxes[kept], *low[kept].T.astype(np.float64), *high[kept].T.astype(np.float64)),
        (all_.masks.arrays()[0], all_.contents),
    ):
        key = _mixed(all_.image_ids[rows], all_.category_ids[rows], *columns)
        order = np.argsort(key, kind="stable")
        same = np.flatnonzero(key[order][1:] == key[order][:-1]) + 1
        # From each one that equals its predecessor, back to the first of the equal ones.
        starts = np.setdiff1d(np.arange(len(order)), same, assume_unique=True)
        first = starts[np.searchsorted(starts, same, "right") - 1]
        for row, of in zip(rows[order[same]].tolist(), rows[order[first]].tolist()):
            if all_.ids[row] != all_.ids[of]:
                again.setdefault(row, of)
    rows = np.array(sorted(again), np.int64)
    _add(findings, "object_again", rows, lambda row: f"{all_.name(row)} repeats annotation {all_.ids[again[row]]}")


def outlines(numbers: np.ndarray, num_numbers: np.ndarray, num_polygons: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    Extents and hashes of polygons, for many annotations at once.

    Masks have one hash if they have as many polygons, the same first point and the same points, in any order.

    Args:
        numbers: (M,) float64, finite: x and y of all points alternately.
        num_numbers: (n,) int64, how many of them each annotation has: two or more.
        num_polygons: (n,) int64, how many polygons each annotation has.

    Returns:
        (n, 4) float64, x0, y0, x1, y1 around the points of each annotation, and (n,) int64, the hashes.
    """
    first = (np.cumsum(num_numbers) - num_numbers) // 2
    points = np.ascontiguousarray(numbers.reshape(-1, 2).T) + 0.0  # -0.0 is 0.0
    low, high = (of.reduceat(points, first, axis=1) for of in (np.minimum, np.maximum))
    # Sums of integers modulo 2^64 don't depend on the order.
    sums = np.add.reduceat(_mixed(points.ravel()).reshape(points.shape), first, axis=1)
    hashes = _mixed(num_numbers, num_polygons, *points[:, first], *sums)
    return np.concatenate([low, high]).T, hashes.view(np.int64)


def _mixed(*columns: np.ndarray) -> np.ndarray:
    """(n,) uint64: hashes of the rows of columns of 64-bit numbers."""
    mixed = np.zeros(len(columns[0]), np.uint64)
    for column in columns:
        mixed = (mixed ^ np.ascontiguousarray(column).view(np.uint64)) * _PRIME
        mixed ^= mixed >> np.uint64(32)
    return mixed
