"""Building of the index of an LVIS JSON file, in one pass over the file and in bounded memory."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import tempfile
import zlib
from array import array
from collections.abc import Iterator, Sequence
from typing import IO, Any

import numpy as np

from ...utils.errors import InputError
from ...utils.garbage_collection import without_cycle_detection
from ...utils.ranges import concatenated_ranges
from ..annotations.annotation_columns import AnnotationColumns, split_columns
from ..annotations.annotation_reader import Annotation, Image, RecordError, read_parts
from ..annotations.reading import open_annotations, why_not_json
from ..images.image_paths import LVIS, image_path, path_problem
from ..validation.annotation_checker import AnnotationChecker
from ..validation.validation_report import Report
from .array_file import ArrayWriter
from .coordinates import encode, encode_all

_IMAGES = 256  # whose numbers are encoded at a time
_SPOOL_NUMBERS = 1 << 20  # kept in memory before they are written to the temporary file
_EXACT = 2**53  # integers up to this are exact in float64


class NotIndexableError(Exception):
    """A file that Detectron2's loader may read but that can't be indexed, for example with ids that are strings."""


class _HashingFile:
    """A file whose SHA-256 is computed while it is read."""

    def __init__(self, file: IO[bytes]):
        self._file = file
        self.sha256 = hashlib.sha256()

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self.sha256.update(data)
        return data


def build_index(json_file: str, output: IO[bytes]) -> None:
    """
    Write the index of an LVIS JSON file. The arrays are described in :mod:`balanced_lvis.data.index.image_records`.

    Coordinates, which make up nearly all of the file, are kept in a temporary file next to the output (8 bytes each)
    until the image of each annotation is known. Problems that don't prevent indexing are stored in the header's
    "report", so that later starts know them without parsing the file.

    Images of a file without ``annotations``, as that of test-dev, have no objects. Annotations with ``ignore`` 1, which
    the LVIS API ignores, are left out of training and counts, and therefore of the index.

    Args:
        json_file: path of the annotation file.
        output: an empty file, open for writing.

    Raises:
        InputError: if the file can't be read, is not valid JSON, or is refused by Detectron2's loader, too.
        NotIndexableError: if the index can't represent its content.
        OSError: if the output can't be written.
    """
    with tempfile.TemporaryFile(dir=os.path.dirname(output.name) or ".") as spool:
        content = _Content(json_file, spool)
        with open_annotations(json_file, "Indexing", progress=True) as (source, counted), without_cycle_detection():
            stamp, hashing = stamp_of(source.fileno()), _HashingFile(counted)
            report = _read(json_file, source, hashing, content)
            if stamp_of(source.fileno()) != stamp:
                raise InputError(f"Annotations {json_file} changed while they were read; start again.")
        writer = ArrayWriter(output)
        try:
            content.write(writer)
        except InputError as error:
            raise _with_report(error, report) from error
        source_of = {**stamp, "sha256": hashing.sha256.hexdigest()}
        writer.finish({"source": source_of, "report": report.to_dict()})


def _read(json_file: str, source: IO[bytes], file: _HashingFile, content: _Content) -> Report:
    """Read a file into ``content``. After an error there, the rest is read for the report only."""
    checker, refused = AnnotationChecker(LVIS), None
    seen: set[str] = set()
    try:
        for key, records in read_parts(file, optional=("annotations",), seen=seen):
            for record in split_columns(records):
                checker.add(key, record)
                if refused is None:
                    try:
                        content.add(key, record)
                    except InputError as error:
                        refused = error
    except (ValueError, RecursionError) as error:
        refused = InputError(f"Annotations {json_file} are not in LVIS format: {why_not_json(source, error)}.")
    report = checker.finish(json_file, "annotations" in seen)
    if refused is not None:
        raise _with_report(refused, report) from refused
    return report


def _with_report(error: InputError, report: Report) -> InputError:
    """The error together with all other errors of the file."""
    found = "".join(f"\n  {problem}" for problem in report.errors)
    return InputError(f"{error}\nErrors in the readable part of the file:{found}" if found else str(error))


def stamp_of(file: str | int) -> dict[str, int]:
    """Size in bytes and modification time in nanoseconds of a path or descriptor."""
    status = os.stat(file)
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns}


_RAGGED = {"name": "B", "not_exhaustive": "i", "negative": "i"}  # type codes of arrays


class _Ragged:
    """
    Lists of numbers, one per image.

    Args:
        code: type code of ``array.array``.
    """

    def __init__(self, code: str):
        self._elements, self._lengths = array(code), array("q")

    def append(self, elements: Sequence[int]) -> None:
        """
        Raises:
            OverflowError: if a number is too large for the type.
        """
        self._elements.extend(elements)
        self._lengths.append(len(elements))

    def write(self, writer: ArrayWriter, name: str, order: np.ndarray) -> None:
        """Write the concatenation of the lists in the given order, and where each starts."""
        lengths = np.array(self._lengths, np.int64)
        starts = np.cumsum(lengths) - lengths
        chosen = concatenated_ranges(starts[order], lengths[order])
        elements = np.frombuffer(self._elements, self._elements.typecode)[chosen]
        writer.add_array(f"first_{name}", _bounds(lengths[order]))
        writer.add_array(name, elements)


class _Content:
    """The records read so far, in the file's order. Ragged lists are stored as lengths and elements."""

    def __init__(self, json_file: str, spool: IO[bytes]):
        self._json_file, self._spool = json_file, spool
        self._images = {name: array("q") for name in ("id", "height", "width")}
        self._ragged = {name: _Ragged(code) for name, code in _RAGGED.items()}
        self._of = {name: array("q") for name in ("id", "image_id", "category_id", "num_polygons", "num_numbers")}
        self._polygon_lengths = array("i")
        self._numbers = array("d")  # the box of each annotation, then its polygons
        self._whole: dict[int, bytes] = {}  # annotation -> whether each number is an int
        self._refused: dict[int, str] = {}  # annotation -> why Detectron2 refuses it, if its image exists

    def add(self, key: str, record) -> None:
        """
        Args:
            key: "images", "categories" or "annotations".
            record: a record of that list, or columns of annotations.

        Raises:
            InputError, NotIndexableError: as for :func:`build_index`.
        """
        try:
            if isinstance(record, AnnotationColumns):
                self._add_columns(record)
            elif isinstance(record, Annotation):
                self._add_annotation(record)
            elif isinstance(record, Image):
                self._add_image(record)
            elif isinstance(record, RecordError) and key != "categories":
                raise record
        except RecordError as error:
            if error.missing or error.field in (None, "segmentation"):  # Detectron2 fails too
                raise self._error(f"in its {key}, {error.named}") from error
            raise NotIndexableError(error.named) from error
        except OverflowError as error:
            raise NotIndexableError(f"{record!r:.200} has a number that is too large") from error

    def _error(self, reason: str) -> InputError:
        return InputError(f"Annotations {self._json_file} are not in LVIS format: {reason}.")

    def _add_image(self, image: Image) -> None:
        try:
            path = image_path(image, LVIS)
        except RecordError as error:
            raise self._error(f"image {image.id} {error}") from error
        if problem := path_problem(path):
            shown = image.coco_url or path
            raise self._error(f"path {shown!r:.100} of image {image.id} {problem}")
        for name, values in self._images.items():
            values.append(getattr(image, name))
        self._ragged["name"].append(path.encode("utf-8", "surrogatepass"))
        self._ragged["not_exhaustive"].append(image.not_exhaustive or ())
        self._ragged["negative"].append(image.negative or ())

    def _add_annotation(self, annotation: Annotation) -> None:
        if annotation.is_ignored:
            return
        polygons: Any = annotation.segmentation
        row = len(self._of["id"])
        reason = _refusal(polygons)
        if reason:
            self._refused[row], polygons = reason, []
        numbers = list(itertools.chain(annotation.box, *polygons))
        self._add_numbers(row, numbers)
        self._polygon_lengths.extend(map(len, polygons))
        self._of["id"].append(annotation.id)
        self._of["image_id"].append(annotation.image_id)
        self._of["category_id"].append(annotation.category_id)
        self._of["num_polygons"].append(len(polygons))
        self._of["num_numbers"].append(len(numbers))

    def _add_columns(self, columns: AnnotationColumns) -> None:
        if columns.whole is not None:
            ends = np.cumsum(columns.num_numbers)
            for place in np.flatnonzero(np.logical_or.reduceat(columns.whole, columns.first_number)).tolist():
                whole = columns.whole[ends[place] - columns.num_numbers[place] : ends[place]]
                self._whole[len(self._of["id"]) + place] = whole.tobytes()
        self._numbers.frombytes(columns.numbers.tobytes())
        self._spill_if_full()
        self._polygon_lengths.frombytes(columns.polygon_lengths.astype(np.int32).tobytes())
        for name, values in self._of.items():
            values.frombytes(getattr(columns, name).tobytes())

    def _add_numbers(self, row: int, numbers: list) -> None:
        types = set(map(type, numbers))
        if types != {float}:
            if not types <= {float, int} or any(abs(n) > _EXACT for n in numbers if type(n) is int):
                raise NotIndexableError(f"{numbers!r:.200} are not all numbers")
            self._whole[row] = bytes(type(n) is int for n in numbers)
        self._numbers.extend(numbers)
        self._spill_if_full()

    def _spill_if_full(self) -> None:
        if len(self._numbers) > _SPOOL_NUMBERS:
            self._spill()

    def _spill(self) -> None:
        self._numbers.tofile(self._spool)
        del self._numbers[:]

    # ------------------------------------------------------------------ sorted by image, as Detectron2 does

    def write(self, writer: ArrayWriter) -> None:
        """
        Raises:
            InputError: if Detectron2 refuses the annotations of an image.
        """
        self._spill()
        images = _last_of_each(np.array(self._images["id"], np.int64))
        for name, values in self._images.items():
            writer.add_array(f"image_{name}", np.array(values, np.int64)[images])
        for name, lists in self._ragged.items():
            lists.write(writer, name, images)
        order, first = self._by_image(np.array(self._images["id"], np.int64)[images])
        self._check(order)
        writer.add_array("first_annotation", first)
        writer.add_array("category_id", _smallest(np.array(self._of["category_id"], np.int64)[order]))
        self._write_polygon_lengths(writer, order, first)
        self._write_numbers(writer, order, first)

    def _by_image(self, image_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Annotations of known images, by image and then in the file's order; and where those of each image start."""
        of_annotation = np.array(self._of["image_id"], np.int64)
        places = np.searchsorted(image_ids, of_annotation)
        if len(image_ids):
            known = image_ids[np.minimum(places, len(image_ids) - 1)] == of_annotation
        else:
            known = np.zeros(len(places), bool)
        order = np.argsort(places, kind="stable")
        order = order[known[order]]
        counts = np.bincount(places[known], minlength=len(image_ids))
        return order, _bounds(counts)

    def _check(self, order: np.ndarray) -> None:
        ids = np.array(self._of["id"], np.int64)[order]
        found, counts = np.unique(ids, return_counts=True)
        if len(found) < len(ids):
            raise InputError(
                f"Annotations {self._json_file}: several annotations have the id {found[counts > 1][0]}; ids must be "
                "unique."
            )
        refused = sorted(self._refused.keys() & set(order.tolist())) if self._refused else []
        if refused:
            row = refused[0]
            raise InputError(
                f"Annotations {self._json_file}: annotation {self._of['id'][row]} of image "
                f"{self._of['image_id'][row]} {self._refused[row]}; Detectron2's LVIS loader reads only "
                "lists of polygons with at least 3 points. Correct or remove it, or name the file under "
                "DATASETS.CUSTOM, which supports RLE masks, and boxes without masks if MODEL.MASK_ON is False."
            )

    def _write_polygon_lengths(self, writer: ArrayWriter, order: np.ndarray, first: np.ndarray) -> None:
        counts = np.array(self._of["num_polygons"], np.int64)
        starts = np.cumsum(counts) - counts
        lengths = np.array(self._polygon_lengths, np.int32)[concatenated_ranges(starts[order], counts[order])]
        writer.add_array("num_polygons", _smallest(counts[order]))
        writer.add_array("polygon_length", _smallest(lengths))
        writer.add_array("first_polygon", _bounds(counts[order])[first])  # of each image

    def _write_numbers(self, writer: ArrayWriter, order: np.ndarray, first: np.ndarray) -> None:
        codes, sizes, checksums = array("B"), array("q"), array("L")

        def encoded() -> Iterator[bytes]:
            for code, data in self._encoded_by_image(order, first):
                codes.append(code)
                sizes.append(len(data))
                checksums.append(zlib.crc32(data))
                yield data

        # Each image has its own checksum, verified when it is read: verifying all would take a second at the start.
        writer.add("numbers", encoded(), np.uint8, checked=False)
        writer.add_array("number_code", np.array(codes, np.uint8))
        writer.add_array("first_number", _bounds(np.array(sizes, np.int64)))
        writer.add_array("number_crc32", np.array(checksums, np.uint32))

    def _encoded_by_image(self, order: np.ndarray, first: np.ndarray) -> Iterator[tuple[int, bytes]]:
        """All numbers of each image, encoded."""
        counts = np.array(self._of["num_numbers"], np.int64)
        starts = np.cumsum(counts) - counts
        spool = np.memmap(self._spool, np.float64, "r").view(np.ndarray) if len(counts) else np.empty(0)
        for image in range(0, len(first) - 1, _IMAGES):
            rows_of = first[image : image + _IMAGES + 1]
            rows = order[rows_of[0] : rows_of[-1]]
            numbers = spool[concatenated_ranges(starts[rows], counts[rows])]
            ends = _bounds(counts[rows])[rows_of[1:] - rows_of[0]]
            if not self._whole or self._whole.keys().isdisjoint(rows.tolist()):
                yield from encode_all(numbers, ends)
                continue
            for part, start, end in zip(np.split(numbers, ends[:-1]), rows_of, rows_of[1:]):
                yield encode(part, self._whole_of(order[start:end].tolist()))

    def _whole_of(self, rows: list[int]) -> np.ndarray | None:
        """Which of the numbers of these annotations are integers; None if none is."""
        if self._whole.keys().isdisjoint(rows):
            return None
        masks = [self._whole.get(row) or bytes(self._of["num_numbers"][row]) for row in rows]
        return np.frombuffer(b"".join(masks), bool)


def _refusal(segmentation: list[list] | dict | None) -> str:
    """Why Detectron2's loader refuses a mask; "" if it doesn't."""
    if segmentation is None:
        return "has no polygon"
    if isinstance(segmentation, dict):
        return f"has an RLE mask, {json.dumps(segmentation):.60}"
    for polygon in segmentation:
        if len(polygon) % 2 or len(polygon) < 6:
            return f"has an invalid polygon of {len(polygon)} numbers"
    return ""


def _last_of_each(ids: np.ndarray) -> np.ndarray:
    """Positions of the ids in ascending order of ids; only the last position of a repeated id."""
    order = np.argsort(ids, kind="stable")
    return order[np.append(np.diff(ids[order]) > 0, True)[: len(order)]]


def _bounds(lengths: np.ndarray) -> np.ndarray:
    """(n + 1,): where each of n parts starts, and the last one ends."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _smallest(values: np.ndarray) -> np.ndarray:
    """The same numbers in the smallest sufficient type."""
    for dtype in (np.uint8, np.uint16, np.int32):
        limits = np.iinfo(dtype)
        if not values.size or (limits.min <= values.min() and values.max() <= limits.max):
            return values.astype(dtype)
    return values
