"""
The checks of a stream of records, in memory that grows by about 80 bytes per annotation, however long its polygons are.

A file's lists come in any order, so that what needs images and categories is compared at the end.
"""

from __future__ import annotations

import math
import posixpath
from array import array
from collections import Counter

import numpy as np

from ...findings import Findings
from ..frequency import missing_groups
from .extents import TOLERANCE, Extents
from .paths import image_path, path_problem
from .report import Problem, Report
from .rle import rle_problem

_LARGEST_ID = 2**62


class AnnotationChecker:
    """
    Args:
        layout: as of :func:`balanced_lvis.data.validation.image_path`.

    Attributes:
        findings: what has been found so far; more comes with :meth:`finish`.
        paths: of every image record, relative to the image folder; "" where it has none that could be used.
    """

    def __init__(self, layout: str | None = None):
        self.findings = Findings(Problem)
        self.paths: list[str] = []
        self.sizes: list[tuple[int, int]] = []  # width, height, as paths
        self._layout = layout
        self._images = {name: array("q") for name in ("id", "width", "height")}
        self._federated: dict[int, tuple[int, set]] = {}  # image record -> its id, category ids
        self._categories = array("q")
        self._category_names: list[str] = []
        self._groups: list[dict] = []  # of categories, what tells theirs
        self._annotations = {name: array("q") for name in ("id", "image_id", "category_id")}
        self._boxes, self._masks = Extents(), Extents()
        self._rle_sizes: dict[int, tuple[int, int]] = {}  # annotation -> height, width
        self._num = Counter()

    def add(self, key: str, element) -> None:
        """
        Args:
            key: of the list: "images", "categories" or "annotations".
            element: of that list, any JSON value.
        """
        kind = {"images": "image", "categories": "category", "annotations": "annotation"}[key]
        self._num[kind] += 1
        try:
            getattr(self, f"_add_{kind}")(element)
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
            reason = f"has no {error.args[0]!r}" if isinstance(error, KeyError) else str(error)
            self.findings.add(f"malformed_{kind}", f"number {self._num[kind]} {reason}"[:200])

    # ------------------------------------------------------------------ one record

    def _add_image(self, image: dict) -> None:
        _check_dict(image)
        path = image_path(image, self._layout)
        width, height = (_size(image, name) for name in ("width", "height"))
        image_id = _whole(image, "id")
        if problem := path_problem(path):
            self.findings.add("path_leaves_root", f"{path!r:.100} of image {image_id} {problem}")
            path = ""
        self.paths.append(path)
        self.sizes.append((width, height))
        for name, value in (("id", image_id), ("width", width), ("height", height)):
            self._images[name].append(value)
        named = [image.get(key) or () for key in ("neg_category_ids", "not_exhaustive_category_ids")]
        if any(named):
            self._federated[len(self.paths) - 1] = (image_id, frozenset(array("q", [i for ids in named for i in ids])))

    def _add_category(self, category: dict) -> None:
        _check_dict(category)
        name = category["name"]
        if not isinstance(name, str):
            raise TypeError(f"name is {name!r:.60}")
        self._categories.append(_whole(category, "id"))
        self._category_names.append(name)
        self._groups.append({key: category.get(key) for key in ("id", "name", "frequency")})

    def _add_annotation(self, annotation: dict) -> None:
        _check_dict(annotation)
        ids = {name: _whole(annotation, name) for name in self._annotations}
        box = annotation["bbox"]
        if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
            raise TypeError(f"bbox is {box!r:.60}")
        row = len(self._annotations["id"])
        for name, values in self._annotations.items():
            values.append(ids[name])
        name = f"annotation {ids['id']} of image {ids['image_id']}"
        self._add_box(row, name, box)
        self._add_area(name, annotation.get("area"))
        self._add_segmentation(row, name, annotation.get("segmentation"))

    def _add_box(self, row: int, name: str, box: list) -> None:
        x, y, width, height = map(float, box)
        if not all(map(math.isfinite, (x, y, width, height, x + width, y + height))):
            self.findings.add("box_not_finite", f"{name}: {box}")
        elif width < 0 or height < 0:
            self.findings.add("box_negative_size", f"{name}: {box}")
        else:
            if not width or not height:
                self.findings.add("box_zero_area", f"{name}: {box}")
            self._boxes.add(row, x, y, x + width, y + height)

    def _add_area(self, name: str, area) -> None:
        if area is None:
            self._num["without_area"] += 1
        elif not _is_number(area) or not 0 <= area < math.inf:
            self.findings.add("area_invalid", f"{name}: {area!r:.60}")

    def _add_segmentation(self, row: int, name: str, segmentation) -> None:
        if isinstance(segmentation, dict):
            self._num["rle"] += 1
            if reason := rle_problem(segmentation):
                self.findings.add("rle_undecodable", f"{name}: {reason}")
            else:
                self._rle_sizes[row] = tuple(segmentation["size"])
        elif not segmentation:
            if not self._num["without_mask"]:
                self._first_without_mask = name
            self._num["without_mask"] += 1
            return
        else:
            self._add_polygons(row, name, segmentation)
        self._num["with_mask"] += 1

    def _add_polygons(self, row: int, name: str, polygons) -> None:
        if not isinstance(polygons, list) or not all(isinstance(polygon, list) for polygon in polygons):
            self.findings.add("malformed_annotation", f"{name}: segmentation is {polygons!r:.60}")
            return
        for polygon in polygons:
            if len(polygon) % 2:
                self.findings.add("polygon_odd", f"{name}: {len(polygon)} coordinates")
            elif len(polygon) < 6:
                self.findings.add("polygon_too_short", f"{name}: {len(polygon) // 2} point(s)")
            elif not {float, int}.issuperset(map(type, polygon)):
                self.findings.add("malformed_annotation", f"{name}: polygon is {polygon!r:.60}")
            elif not _all_finite(polygon):
                self.findings.add("polygon_not_finite", name)
            else:
                x, y = polygon[::2], polygon[1::2]
                self._masks.add(row, min(x), min(y), max(x), max(y))

    # ------------------------------------------------------------------ all records

    def finish(self, json_file: str, has_annotations: bool) -> Report:
        """
        Args:
            json_file: for the report.
            has_annotations: whether the file has a list of them.
        """
        images = np.array(self._images["id"], np.int64)
        categories = np.array(self._categories, np.int64)
        self._report_repeated("duplicate_image_id", images)
        self._report_repeated("duplicate_category_id", categories)
        self._report_names()
        self._check_federated(set(self._categories))
        self._check_references(images, categories)
        self._report_missing_parts()
        folders = Counter(posixpath.dirname(path) for path in self.paths if path)
        return Report(
            json_file=str(json_file),
            num_images=self._num["image"],
            num_annotations=self._num["annotation"] if has_annotations else None,
            num_categories=self._num["category"],
            num_rles=self._num["rle"],
            num_images_of=dict(sorted(folders.items())),
            groups_problem=missing_groups(self._groups),
            problems=self.findings.problems(),
        )

    def _report_repeated(self, kind: str, ids: np.ndarray) -> None:
        found, counts = np.unique(ids, return_counts=True)
        again = counts > 1
        if again.any():
            for value, count in zip(found[again].tolist(), counts[again].tolist()):
                self.findings.add(kind, f"{value} ({count} times)", count - 1)

    def _report_names(self) -> None:
        for kind, names in (("duplicate_category_name", self._category_names), ("same_file", filter(None, self.paths))):
            for name, count in Counter(names).items():
                if count > 1:
                    self.findings.add(kind, f"{name!r:.100} ({count} times)", count - 1)

    def _check_federated(self, categories: set[int]) -> None:
        for image_id, named in self._federated.values():
            if not named <= categories:
                self.findings.add("unknown_federated_id", f"{min(named - categories)} of image {image_id}")

    def _check_references(self, images: np.ndarray, categories: np.ndarray) -> None:
        ids, of_image, of_category = (np.array(values, np.int64) for values in self._annotations.values())
        self._report_repeated("duplicate_annotation_id", ids)
        order = np.argsort(images, kind="stable")
        place = np.searchsorted(images, of_image, sorter=order)
        known = np.zeros(len(ids), bool)
        if len(images):
            place = order[np.minimum(place, len(images) - 1)]
            known = images[place] == of_image
        for row in np.flatnonzero(~known).tolist():
            self.findings.add("unknown_image_id", f"{of_image[row]} of annotation {ids[row]}")
        for row in np.flatnonzero(~np.isin(of_category, categories)).tolist():
            self.findings.add("unknown_category_id", f"{of_category[row]} of annotation {ids[row]}")
        sizes = np.array([self._images["width"], self._images["height"]], np.float64).T.reshape(-1, 2)
        sizes = sizes[place] if len(images) else np.zeros((len(ids), 2))

        def example(row: int) -> str:
            width, height = sizes[row].astype(int).tolist()
            return f"annotation {ids[row]} of image {of_image[row]}, which is {width} x {height}"

        self._check_extents(known, sizes, example)
        for row, (height, width) in self._rle_sizes.items():
            if known[row] and (width, height) != tuple(sizes[row].tolist()):
                self.findings.add("rle_wrong_size", f"{width} x {height}, {example(row)}")

    def _check_extents(self, known: np.ndarray, sizes: np.ndarray, example) -> None:
        for what, extents in (("box", self._boxes), ("polygon", self._masks)):
            rows, low, high = extents.arrays()
            kept = known[rows]
            rows, low, high = rows[kept], low[kept], high[kept]
            off = ((low >= sizes[rows]) | (high <= 0)).any(1) if what == "box" else np.zeros(len(rows), bool)
            over = ((low < -TOLERANCE) | (high > sizes[rows] + TOLERANCE)).any(1) & ~off
            for kind, found in ((f"{what}_off_image", off), (f"{what}_outside_image", over)):
                for row in np.unique(rows[found]).tolist():
                    self.findings.add(kind, example(row))

    def _report_missing_parts(self) -> None:
        if missing := self._num["without_mask"]:
            kind = "segmentation_missing" if self._num["with_mask"] else "no_masks"
            self.findings.add(kind, self._first_without_mask, missing)
        if missing := self._num["without_area"]:
            self.findings.add("area_missing", f"{missing:,} of {self._num['annotation']:,}", missing)


def _check_dict(element) -> None:
    if not isinstance(element, dict):
        raise TypeError(f"is {element!r:.60}")


def _whole(record: dict, name: str) -> int:
    value = record[name]
    if type(value) is not int or abs(value) > _LARGEST_ID:
        raise TypeError(f"{name} is {value!r:.60}")
    return value


def _size(image: dict, name: str) -> int:
    value = _whole(image, name)
    if value < 1:
        raise ValueError(f"{name} is {value}")
    return value


def _is_number(value) -> bool:
    return type(value) in (int, float)


def _all_finite(numbers: list) -> bool:
    # The sum of what is finite may overflow; only then every number is looked at.
    return math.isfinite(sum(numbers)) or all(map(math.isfinite, numbers))
