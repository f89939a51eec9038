"""
Checks of a stream of annotation records, with about 80 bytes of memory per annotation, regardless of mask size.

The lists of a file come in any order, so that references between them are checked at the end.
"""

from __future__ import annotations

import math
import posixpath
from array import array
from collections import Counter
from collections.abc import Callable

import numpy as np

from ...utils.findings import SHOWN, Findings
from ..annotations.annotation_columns import AnnotationColumns
from ..annotations.annotation_reader import Annotation, Category, Image, Record, RecordError
from ..frequency import missing_groups
from ..images.image_paths import LVIS, image_path, path_problem
from .comparisons import Annotations, Extents, compare, outlines
from .masks import rle_extent, rle_runs
from .validation_report import Problem, Report


class AnnotationChecker:
    """
    Args:
        layout: as for :func:`balanced_lvis.data.validation.image_path`. With "lvis", content that Detectron2's
            loader of LVIS files misreads is an error.

    Attributes:
        findings: problems found so far; :meth:`finish` adds more.
        paths: path of each image record, relative to the image folder; "" if it has no usable path.
        sizes: width, height of each of them.
    """

    def __init__(self, layout: str | None = None):
        self.findings = Findings(Problem)
        self.paths: list[str] = []
        self.sizes: list[tuple[int, int]] = []
        self._layout = layout
        self._images = {name: array("q") for name in ("id", "width", "height")}
        self._federated: dict[int, frozenset[int]] = {}  # image id -> category ids
        self._not_federated = array("q")  # ids of images without one of these lists
        self._categories = array("q")
        self._category_names: list[str] = []
        self._groups: list[dict] = []  # the fields of categories that define them
        self._annotations = {name: array("q") for name in ("id", "image_id", "category_id")}
        self._boxes, self._masks, self._contents = Extents(), Extents(), array("q")
        self._rles, self._rle_sizes = array("i"), array("i")  # annotations; height, width of each
        self._objects: Counter[int] = Counter()  # objects by category id
        self._others: Counter[int] = Counter()  # other annotations by category id
        self._num: Counter[str] = Counter()
        self._add_to: dict[str, tuple[str, Callable]] = {
            "images": ("image", self._add_image),
            "categories": ("category", self._add_category),
            "annotations": ("annotation", self._add_annotation),
        }

    def add(self, key: str, record: Record | AnnotationColumns) -> None:
        """
        Args:
            key: name of the list: "images", "categories" or "annotations".
            record: a record of that list, from :func:`..annotations.annotation_reader.read_records`, or columns of
                annotations.
        """
        if isinstance(record, AnnotationColumns):
            self._add_columns(record)
            return
        kind, add = self._add_to[key]
        self._num[kind] += 1
        if isinstance(record, RecordError):
            self.findings.add(record.kind or f"malformed_{kind}", record.named[:200])
        else:
            add(record)

    # ------------------------------------------------------------------ one record

    def _add_image(self, image: Image) -> None:
        try:
            path = image_path(image, self._layout)
        except RecordError as error:
            self.findings.add("malformed_image", f"image {image.id}: {error}"[:200])
            return
        if problem := path_problem(path):
            self.findings.add("path_leaves_root", f"{path!r:.100} of image {image.id} {problem}")
            path = ""
        self.paths.append(path)
        self.sizes.append((image.width, image.height))
        for name, values in self._images.items():
            values.append(getattr(image, name))
        self._num["federated"] += image.negative is not None
        self._num["with_negative"] += bool(image.negative)
        if image.negative or image.not_exhaustive:
            self._federated[image.id] = frozenset((image.negative or []) + (image.not_exhaustive or []))
        if self._layout == LVIS and (image.negative is None or image.not_exhaustive is None):
            self._not_federated.append(image.id)

    def _add_category(self, category: Category) -> None:
        self._categories.append(category.id)
        self._category_names.append(category.name)
        self._groups.append({key: category.content.get(key) for key in ("id", "name", "frequency")})

    def _add_annotation(self, annotation: Annotation) -> None:
        row = len(self._annotations["id"])
        self._annotations["id"].append(annotation.id)
        self._annotations["image_id"].append(annotation.image_id)
        self._annotations["category_id"].append(annotation.category_id)
        if annotation.is_crowd or annotation.is_ignored:
            self._others[annotation.category_id] += 1
            self._num["crowds" if annotation.is_crowd else "ignored"] += 1
            if annotation.is_crowd and self._layout == LVIS:
                self.findings.add("crowd_in_lvis", annotation.name)
        else:
            self._objects[annotation.category_id] += 1
        if annotation.area is None:
            self._num["without_area"] += 1
        self._add_box(row, annotation)
        self._add_mask(row, annotation)

    def _add_box(self, row: int, annotation: Annotation) -> None:
        x, y, width, height = map(float, annotation.box)
        if not (math.isfinite(x + width) and math.isfinite(y + height)):  # sums with NaN or infinity are not finite
            self.findings.add("box_not_finite", f"{annotation.name}: {annotation.box}")
        elif width < 0 or height < 0:
            self.findings.add("box_negative_size", f"{annotation.name}: {annotation.box}")
        elif not width or not height:
            self.findings.add("box_zero_area", f"{annotation.name}: {annotation.box}")
        else:
            self._boxes.add(row, x, y, x + width, y + height)

    def _add_mask(self, row: int, annotation: Annotation) -> None:
        segmentation = annotation.segmentation
        if segmentation is None:
            if not self._num["without_mask"]:
                self._first_without_mask = annotation.name
            self._num["without_mask"] += 1
            return
        self._num["with_mask"] += 1
        if isinstance(segmentation, dict):
            self._num["rle"] += 1
            self._add_rle(row, annotation, segmentation)
        else:
            self._add_polygons(row, annotation, segmentation)

    def _add_rle(self, row: int, annotation: Annotation, rle: dict) -> None:
        try:
            runs = rle_runs(rle)
        except ValueError as error:
            self.findings.add("rle_undecodable", f"{annotation.name}: {error}")
            return
        self._rles.append(row)
        self._rle_sizes.extend(rle["size"])
        extent = rle_extent(runs, rle["size"][0])
        if extent is None:
            self.findings.add("mask_empty", annotation.name)
        else:
            self._add_extent(row, extent, hash((*rle["size"], *runs)))

    def _add_polygons(self, row: int, annotation: Annotation, polygons: list[list]) -> None:
        numbers: list[float] = []
        num_polygons = 0
        for polygon in polygons:
            if problem := _polygon_problem(polygon):
                kind, reason = problem
                self.findings.add(kind, f"{annotation.name}: {reason}" if reason else annotation.name)
            else:
                numbers += polygon
                num_polygons += 1
        if numbers:
            extents, contents = outlines(
                np.array(numbers, np.float64), np.array([len(numbers)]), np.array([num_polygons])
            )
            self._add_extent(row, tuple(extents[0].tolist()), int(contents[0]))

    def _add_extent(self, row: int, extent: tuple, content: int) -> None:
        self._masks.add(row, *extent)
        self._contents.append(content)

    # ------------------------------------------------------------------ many annotations

    def _add_columns(self, columns: AnnotationColumns) -> None:
        row, count = len(self._annotations["id"]), len(columns)
        self._num["annotation"] += count
        self._num["with_mask"] += count
        for name, values in self._annotations.items():
            values.frombytes(getattr(columns, name).tobytes())
        categories, counts = np.unique(columns.category_id, return_counts=True)
        self._objects.update(dict(zip(categories.tolist(), counts.tolist())))
        boxes = columns.boxes
        self._boxes.add_all(row, np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1))
        extents, contents = outlines(*columns.points, columns.num_polygons)
        self._masks.add_all(row, extents)
        self._contents.frombytes(contents.tobytes())

    # ------------------------------------------------------------------ all records

    def finish(self, json_file: str, has_annotations: bool) -> Report:
        """
        Args:
            json_file: path of the file, for the report.
            has_annotations: whether the file has a list of annotations.

        Returns:
            the report on all records.
        """
        images = np.array(self._images["id"], np.int64)
        categories = np.array(self._categories, np.int64)
        self._report_repeated("duplicate_image_id", images)
        self._report_repeated("duplicate_category_id", categories)
        self._report_names()
        self._check_federated(set(self._categories), has_annotations)
        self._check_references(images, categories)
        self._report_missing_parts()
        self._report_no_objects()
        folders = Counter(posixpath.dirname(path) for path in self.paths if path)
        return Report(
            json_file=str(json_file),
            num_images=self._num["image"],
            num_annotations=self._num["annotation"] if has_annotations else None,
            num_categories=self._num["category"],
            num_rles=self._num["rle"],
            num_crowds=self._num["crowds"],
            num_ignored=self._num["ignored"],
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

    def _check_federated(self, categories: set[int], has_annotations: bool) -> None:
        for image_id, named in self._federated.items():
            if not named <= categories:
                self.findings.add("unknown_federated_id", f"{min(named - categories)} of image {image_id}")
        if self._num["annotation"] and self._not_federated:
            examples = [f"image {image_id}" for image_id in self._not_federated[:SHOWN]]
            self.findings.add_all("not_federated", examples, len(self._not_federated))
        if has_annotations and self._num["federated"] and not self._num["with_negative"]:
            self.findings.add_all("negatives_empty", (), self._num["federated"])

    def _check_references(self, images: np.ndarray, categories: np.ndarray) -> None:
        ids, of_image, of_category = (np.array(values, np.int64) for values in self._annotations.values())
        self._report_repeated("duplicate_annotation_id", ids)
        order = np.argsort(images, kind="stable")
        place = np.searchsorted(images, of_image, sorter=order)
        known = np.zeros(len(ids), bool)
        sizes = np.zeros((len(ids), 2))
        if len(images):
            place = order[np.minimum(place, len(images) - 1)]
            known = images[place] == of_image
            sizes = np.array([self._images["width"], self._images["height"]], np.float64).T[place]
        for row in np.flatnonzero(~known).tolist():
            self.findings.add("unknown_image_id", f"{of_image[row]} of annotation {ids[row]}")
        for row in np.flatnonzero(~np.isin(of_category, categories)).tolist():
            self.findings.add("unknown_category_id", f"{of_category[row]} of annotation {ids[row]}")
        contents = np.array(self._contents, np.int64)
        every = Annotations(ids, of_image, of_category, known, sizes, self._boxes, self._masks, contents)
        compare(every, self._check_rle_sizes(every), self.findings)

    def _check_rle_sizes(self, every: Annotations) -> np.ndarray:
        """Compare the sizes of RLE masks and images; returns the annotations where they differ."""
        rows = np.array(self._rles, np.int64)
        sizes = np.array(self._rle_sizes, np.int64).reshape(-1, 2)[:, ::-1]  # width, height
        wrong = every.known[rows] & (sizes != every.sizes[rows]).any(1)
        for row, (width, height) in zip(rows[wrong].tolist(), sizes[wrong].tolist()):
            self.findings.add("rle_wrong_size", f"{width} x {height}, {every.sized(row)}")
        return rows[wrong]

    def _report_missing_parts(self) -> None:
        if missing := self._num["without_mask"]:
            kind = "segmentation_missing" if self._num["with_mask"] else "no_masks"
            self.findings.add(kind, self._first_without_mask, missing)
        if missing := self._num["without_area"]:
            self.findings.add("area_missing", f"{missing:,} of {self._num['annotation']:,}", missing)

    def _report_no_objects(self) -> None:
        others = sum(self._others.values())
        if others and not self._objects:
            self.findings.add_all("no_objects", (), others)
            return
        names = dict(zip(self._categories, self._category_names))
        for category_id in sorted(self._others.keys() - self._objects.keys()):
            name = names.get(category_id, "")
            self.findings.add("category_without_objects", f"{name!r:.100} ({self._others[category_id]:,})")


def _polygon_problem(polygon: list) -> tuple[str, str] | None:
    """The kind of problem, and details that follow the annotation's name; None if the polygon is valid."""
    if len(polygon) % 2:
        return "polygon_odd", f"{len(polygon)} coordinates"
    if len(polygon) < 6:
        return "polygon_too_short", f"{len(polygon) // 2} point(s)"
    if not {float, int}.issuperset(map(type, polygon)):
        return "malformed_annotation", f"polygon is {polygon!r:.60}"
    try:
        if not _all_finite(polygon):
            return "polygon_not_finite", ""
    except OverflowError:  # integers that are too large for a float
        return "malformed_annotation", f"polygon is {polygon!r:.60}"
    return None


def _all_finite(numbers: list) -> bool:
    # The sum of finite numbers may overflow; only then, each number is checked.
    return math.isfinite(sum(numbers)) or all(map(math.isfinite, numbers))
