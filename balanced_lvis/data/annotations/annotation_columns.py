"""
Columns of annotations, so that the checks and the index process thousands of annotations at once.

Only valid annotations of objects with polygons have this form, which are nearly all in LVIS. All others are processed
one at a time.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from .annotation_reader import Annotation

_LARGEST = 1e9  # pixels; annotations with larger coordinates are processed one at a time
_BOX = 4  # numbers of a box
# A float64 in MessagePack: the byte 0xcb, and its bits.
_PACKED = np.dtype([("type", np.uint8), ("value", ">f8")])
_FLOAT64 = 0xCB


class AnnotationColumns(NamedTuple):
    """
    N valid annotations: objects, each with a box of positive size, an area, and polygons of at least three points with
    finite coordinates.

    Attributes:
        id, image_id, category_id: (N,) int64.
        numbers: (M,) float64: of each annotation the box (x, y, width, height), then the coordinates of its polygons.
        whole: (M,) bool, whether each number is an integer in the file; None if none is.
        num_numbers: (N,) int64, how many of ``numbers`` each annotation has.
        num_polygons: (N,) int64.
        polygon_lengths: (P,) int64, how many coordinates each polygon has.
    """

    id: np.ndarray
    image_id: np.ndarray
    category_id: np.ndarray
    numbers: np.ndarray
    whole: np.ndarray | None
    num_numbers: np.ndarray
    num_polygons: np.ndarray
    polygon_lengths: np.ndarray

    def __len__(self):
        return self.id.size

    @property
    def first_number(self) -> np.ndarray:
        """(N,) int64: where the numbers of each annotation begin."""
        return np.cumsum(self.num_numbers) - self.num_numbers

    @property
    def boxes(self) -> np.ndarray:
        """(N, 4) float64: x, y, width, height."""
        return self.numbers[self.first_number[:, None] + np.arange(_BOX)]

    @property
    def points(self) -> tuple[np.ndarray, np.ndarray]:
        """(M - 4N,) float64, the coordinates of all polygons, and (N,) int64, how many each annotation has."""
        is_box = np.zeros(len(self.numbers), bool)
        is_box[self.first_number[:, None] + np.arange(_BOX)] = True
        return self.numbers[~is_box], self.num_numbers - _BOX


def split_columns(records: Sequence) -> Iterator[AnnotationColumns | Annotation]:
    """
    Columns of as many neighbouring annotations as possible, and the others one at a time, in the given order.

    Args:
        records: records of the list of annotations, from :func:`.annotation_reader.read_parts`.
    """
    for is_usual, group in itertools.groupby(records, _is_usual):
        if is_usual:
            yield from _split(list(group))
        else:
            yield from group


def _is_usual(record) -> bool:
    return (
        isinstance(record, Annotation)
        and type(record.segmentation) is list
        and record.area is not None
        and not (record.is_crowd or record.is_ignored)
    )


def _split(annotations: list[Annotation]) -> Iterator[AnnotationColumns | Annotation]:
    try:
        columns = _columns(annotations)
        usual = _are_valid(columns)
    except (TypeError, ValueError, OverflowError):  # no numbers, or larger ones than a float can be
        yield from annotations
        return
    if usual.all():
        yield columns
        return
    for is_usual, group in itertools.groupby(zip(usual.tolist(), annotations), lambda pair: pair[0]):
        kept = [annotation for _, annotation in group]
        if is_usual:
            yield _columns(kept)
        else:
            yield from kept


def _columns(annotations: list[Annotation]) -> AnnotationColumns:
    pieces: list[list] = []
    for annotation in annotations:
        pieces.append(annotation.box)
        pieces += annotation.segmentation  # type: ignore[arg-type]  # a list, see _is_usual
    lengths = np.fromiter(map(len, pieces), np.int64, len(pieces))
    numbers, whole = _numbers(list(itertools.chain.from_iterable(pieces)))
    num_polygons = np.array([len(annotation.segmentation) for annotation in annotations], np.int64)  # type: ignore[arg-type]
    first = np.cumsum(num_polygons + 1) - num_polygons - 1  # the piece that is the box
    is_polygon = np.ones(len(pieces), bool)
    is_polygon[first] = False
    return AnnotationColumns(
        np.array([annotation.id for annotation in annotations], np.int64),
        np.array([annotation.image_id for annotation in annotations], np.int64),
        np.array([annotation.category_id for annotation in annotations], np.int64),
        numbers,
        whole,
        np.add.reduceat(lengths, first),
        num_polygons,
        lengths[is_polygon],
    )


def _numbers(values: list) -> tuple[np.ndarray, np.ndarray | None]:
    """
    The values as an array, and which of them are integers; None if none is.

    Raises:
        TypeError: if a value is neither an integer nor a float.
    """
    # A conversion by NumPy and a comparison of all types would take three times as long.
    packed = np.frombuffer(msgspec.msgpack.encode(values), np.uint8)
    floats = packed[len(packed) % _PACKED.itemsize :].view(_PACKED)
    if len(floats) == len(values) and (floats["type"] == _FLOAT64).all():
        return floats["value"].astype(np.float64), None
    if not set(map(type, values)) <= {float, int}:
        raise TypeError(values)
    whole = np.fromiter((type(value) is int for value in values), bool, len(values))
    return np.array(values, np.float64), whole


def _are_valid(columns: AnnotationColumns) -> np.ndarray:
    """(N,) bool: whether all conditions of :class:`AnnotationColumns` hold."""
    boxes = columns.boxes
    # False for NaN, too.
    within = np.logical_and.reduceat(np.abs(columns.numbers) <= _LARGEST, columns.first_number)
    positive = (boxes[:, 2:] > 0).all(1) & (np.abs(boxes[:, :2] + boxes[:, 2:]) <= _LARGEST).all(1)
    polygons = (columns.polygon_lengths >= 6) & (columns.polygon_lengths % 2 == 0)
    first_polygon = np.cumsum(columns.num_polygons) - columns.num_polygons
    return within & positive & np.logical_and.reduceat(polygons, first_polygon)
