"""Validation of submissions and results files, in bounded memory."""

from __future__ import annotations

import math
import os
from array import array
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ...utils.errors import InputError
from ...utils.findings import SHOWN, Findings
from ..lvis_api import MAX_DETECTIONS_PER_IMAGE
from .compressed_rle import REASONS, mask_areas
from .image_list import ImageList
from .problems import Problem, Report
from .results_reader import BROKEN, batches_of, why_unreadable

_LARGEST_ID = 2**62
_LARGEST_SIDE = 2**20
_TOLERANCE = 1.0  # pixels over the image border, due to rounding
_SHARE = 0.1  # minimum share of boxes that exceed their image


def validate_submission(path: str | os.PathLike, images: ImageList, progress: bool = False) -> Report:
    """
    Validate a submission at least as strictly as the server.

    Args:
        path: path of a JSON file, or of a zip archive with one.
        images: images and categories of the dataset.
        progress: show a progress bar on a terminal.

    Returns:
        the report. A file that can't be parsed to its end has the problem "not_json" and those of the part before.

    Raises:
        InputError: if the file does not exist or can't be opened.
    """
    checker = Checker(images)
    try:
        for batch in batches_of(path, progress):
            checker.add(batch)
    except InputError:
        raise
    except BROKEN as error:
        checker.findings.add("not_json", why_unreadable(error))
    return checker.finish(os.fspath(path))


class Row(NamedTuple):
    """A detection that could be read; ``box`` or ``counts`` is None if the file has none."""

    position: int
    image_id: int
    category_id: int
    score: float
    box: list[float] | None
    size: tuple[int, int]
    counts: str | None


class Checker:
    """
    Collects the problems in a stream of detections.

    It keeps 8 bytes for each of the first 300 detections of an image, and nothing of others.

    Args:
        images: images and categories of the dataset.

    Attributes:
        task: "segm" or "bbox", the type of the first detection that could be read; "" before that.
        findings: problems so far; :meth:`finish` adds those that depend on all detections.
    """

    def __init__(self, images: ImageList):
        self.images = images
        self.task = ""
        self.findings = Findings(Problem)
        self.num_detections = 0
        self._counts = np.zeros(len(images), np.int64)
        self._hashes = array("q")
        self._corners = CornerBoxes(images)

    def add(self, records: list) -> list[Row]:
        """
        Check the next detections.

        Args:
            records: arbitrary JSON values.

        Returns:
            the detections that could be read.
        """
        rows = [row for row in map(self._read, records) if row is not None]
        if rows:
            self._check(rows)
        return rows

    # ------------------------------------------------------------------ one detection

    def _read(self, record) -> Row | None:
        self.num_detections += 1
        position = self.num_detections
        try:
            row = _row(position, record)
        except (KeyError, TypeError, ValueError) as error:
            reason = f"has no {error.args[0]!r}" if isinstance(error, KeyError) else str(error)
            self.findings.add("malformed", f"number {position} {reason}"[:200])
            return None
        self.task = self.task or ("bbox" if row.counts is None else "segm")
        if (self.task == "segm" and row.counts is None) or (self.task == "bbox" and row.counts is not None):
            self.findings.add("mixed", f"number {position}")
            return None
        if self.task == "segm" and row.box is not None:
            self.findings.add("bbox_in_mask_file", f"number {position}")
        return row

    # ------------------------------------------------------------------ many detections

    def _check(self, rows: list[Row]) -> None:
        image_ids = np.array([row.image_id for row in rows], np.int64)
        images = np.minimum(np.searchsorted(self.images.ids, image_ids), len(self.images) - 1)
        known = self.images.ids[images] == image_ids
        self._flag("unknown_image", ~known, rows, lambda row: f"image_id {row.image_id}")
        categories = np.array([row.category_id for row in rows], np.int64)
        unknown = ~np.isin(categories, self.images.category_ids)
        self._flag("unknown_category", unknown, rows, lambda row: f"category_id {row.category_id}")
        scores = np.array([row.score for row in rows])
        self._flag("score_not_finite", ~np.isfinite(scores), rows, lambda row: f"score {row.score}")
        if rows[0].box is not None and all(row.box is not None for row in rows):
            self._check_boxes(rows)
            self._corners.add(rows, images, known)
        if self.task == "segm":
            self._check_masks(rows, images, known)
        self._look_for_duplicates(rows, images, known)
        np.add.at(self._counts, images[known], 1)

    def _check_boxes(self, rows: list[Row]) -> None:
        boxes = np.array([row.box for row in rows], np.float64)
        invalid: Any = ~np.isfinite(boxes).all(axis=1) | (boxes[:, 2:] < 0).any(axis=1)
        self._flag("box_invalid", invalid, rows, lambda row: f"bbox {row.box}")
        if self.task == "bbox":
            with np.errstate(over="ignore", invalid="ignore"):
                self._flag("no_area", ~invalid & (boxes[:, 2] * boxes[:, 3] <= 0), rows, lambda row: f"bbox {row.box}")

    def _check_masks(self, rows: list[Row], images: np.ndarray, known: np.ndarray) -> None:
        sizes = np.array([row.size for row in rows], np.int64)
        right = np.stack([self.images.heights[images], self.images.widths[images]], axis=1)
        wrong = known & (sizes != right).any(axis=1)
        self._flag("rle_wrong_size", wrong, rows, lambda row: f"size {list(row.size)}")
        # Only masks with the size of their image are decoded, so that no mask can claim an arbitrary size.
        sound = np.flatnonzero(known & ~wrong)
        rows = [rows[index] for index in sound.tolist()]
        areas, codes = mask_areas([row.counts or "" for row in rows], right[sound].prod(axis=1))
        reasons = dict(zip((row.position for row in rows), codes.tolist()))
        self._flag("rle_undecodable", codes > 0, rows, lambda row: REASONS[reasons[row.position]])
        self._flag("no_area", (codes == 0) & (areas == 0), rows, lambda row: "no pixel")

    def _look_for_duplicates(self, rows: list[Row], images: np.ndarray, known: np.ndarray) -> None:
        candidates = known & (self._counts[images] <= MAX_DETECTIONS_PER_IMAGE)
        for index in np.flatnonzero(candidates).tolist():
            row = rows[index]
            shape = tuple(row.box) if row.counts is None else row.counts
            self._hashes.append(hash((row.image_id, row.category_id, row.score, shape)))

    def _flag(self, kind: str, which: np.ndarray, rows: list[Row], describe) -> None:
        if not which.any():
            return
        first = [rows[index] for index in np.flatnonzero(which)[:SHOWN].tolist()]
        texts = [f"number {row.position} of image {row.image_id}, {describe(row)}" for row in first]
        self.findings.add_all(kind, texts, int(which.sum()))

    # ------------------------------------------------------------------ the end

    def finish(self, path: str) -> Report:
        """
        Add the problems that depend on all detections.

        Args:
            path: path of the file, for the report.

        Returns:
            the report.
        """
        if not self.num_detections and "not_json" not in self.findings:
            self.findings.add("empty", "[]")
        ids, counts = self.images.ids, self._counts
        over = np.flatnonzero(counts > MAX_DETECTIONS_PER_IMAGE)
        if len(over):
            texts = [f"image {ids[index]} with {counts[index]:,}" for index in over[:SHOWN].tolist()]
            self.findings.add_all("too_many", texts, len(over))
        if examples := self._corners.examples():
            self.findings.add_all("corners", examples, self._corners.leaving)
        hashes = np.frombuffer(self._hashes, np.int64) if self._hashes else np.zeros(0, np.int64)
        hashes.sort()  # in place
        if twice := int((hashes[1:] == hashes[:-1]).sum()):
            self.findings.add_all("duplicate", [], twice)
        without = np.flatnonzero(counts == 0)
        if len(without):
            self.findings.add_all("missing_image", [f"image {i}" for i in ids[without[:SHOWN]].tolist()], len(without))
        return Report(path, self.task, self.num_detections, int((counts > 0).sum()), self.findings.problems())


def _row(position: int, record) -> Row:
    """
    Raises:
        KeyError, TypeError, ValueError: if a record can't be read.
    """
    if type(record) is not dict:
        raise TypeError(f"is {record!r:.40}, not an object")
    score = record["score"]
    if type(score) not in (float, int):
        raise TypeError(f"has a score of {score!r:.40}")
    image_id, category_id = _id(record, "image_id"), _id(record, "category_id")
    box, size, counts = record.get("bbox"), (0, 0), None
    if "segmentation" in record:
        size, counts = _mask(record["segmentation"])
    if "bbox" in record:
        box = _box(box)
    elif counts is None:
        raise TypeError("has neither a 'segmentation' nor a 'bbox'")
    return Row(position, image_id, category_id, _as_float(score), box, size, counts)


def _id(record: dict, key: str) -> int:
    value = record[key]
    if type(value) is not int or abs(value) > _LARGEST_ID:
        raise TypeError(f"has {key} {value!r:.40}, not an integer")
    return value


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _box(box) -> list[float]:
    if type(box) is not list or len(box) != 4 or any(type(value) not in (float, int) for value in box):
        raise TypeError(f"has a bbox of {box!r:.60}")
    return list(map(_as_float, box))


def _mask(mask) -> tuple[tuple[int, int], str]:
    if type(mask) is not dict:
        raise TypeError(f"has a segmentation of {mask!r:.40}, not RLE")
    size, counts = mask["size"], mask["counts"]
    if type(size) is not list or len(size) != 2 or any(type(value) is not int for value in size):
        raise TypeError(f"has a mask's size of {size!r:.40}")
    if not all(0 < value < _LARGEST_SIDE for value in size):
        raise ValueError(f"has a mask's size of {size!r:.40}")
    if type(counts) is not str:
        raise TypeError(f"has counts {counts!r:.40}, not a string of compressed RLE")
    return (size[0], size[1]), counts


class CornerBoxes:
    """
    Detects boxes that were written as two corners, [x1, y1, x2, y2], instead of [x, y, width, height].

    If corners are read as [x, y, width, height], about half of the boxes exceed their image. If [x, y, width, height]
    is read as corners, rarely are all boxes valid, as each width would have to be larger than x.

    Args:
        images: images of the dataset.

    Attributes:
        leaving: number of boxes so far that exceed their image as [x, y, width, height].
    """

    def __init__(self, images: ImageList):
        self._images = images
        self._all_fit_as_corners = True
        self._num = 0
        self.leaving = 0
        self._examples: list[str] = []

    def add(self, rows: Sequence, images: np.ndarray, known: np.ndarray) -> None:
        """
        Args:
            rows: N detections with boxes.
            images: (N,) index of the image of each in the dataset.
            known: (N,) bool, whether the image is in the dataset.
        """
        if not self._all_fit_as_corners:
            return
        boxes = np.array([row.box for row in rows], np.float64)
        used = np.flatnonzero(known & np.isfinite(boxes).all(axis=1))
        boxes = boxes[used]
        size = np.stack([self._images.widths[images[used]], self._images.heights[images[used]]], axis=1) + _TOLERANCE
        low, second = boxes[:, :2], boxes[:, 2:]
        fits = (low >= -_TOLERANCE) & (second >= low) & (second <= size)
        self._all_fit_as_corners = bool(fits.all())
        with np.errstate(over="ignore"):
            leaves = np.flatnonzero((low + second > size).any(axis=1))
        self._num += len(used)
        self.leaving += len(leaves)
        for index in leaves[: SHOWN - len(self._examples)].tolist():
            row, (width, height) = rows[used[index]], (size[index] - _TOLERANCE).astype(int).tolist()
            self._examples.append(f"number {row.position} of image {row.image_id} ({width} x {height}), bbox {row.box}")

    def examples(self) -> list[str]:
        """Descriptions of the first boxes that exceed their image; empty if the boxes are probably not corners."""
        if not self._all_fit_as_corners or self.leaving < max(1, _SHARE * self._num):
            return []
        return self._examples
