"""
The numbers of an analysis, as a tree of dataclasses that is stored as JSON.

AP and all rates are in percent, scores and IoUs in 0..1. NaN stands for what is not defined, such as AP without
objects, and is null in JSON.
"""

from __future__ import annotations

import dataclasses
import math
import os
import types
import typing
from dataclasses import dataclass, field
from typing import Any

from ..utils.errors import InputError
from ..utils.io import read_json, write_json

FORMAT = 2


@dataclass(frozen=True)
class Interval:
    """
    A value with its bootstrap interval.

    Attributes:
        value: value on the dataset.
        low, high: interval.
        standard_error: standard deviation of the resamples.
        bias: mean of the resamples minus ``value``; the interval is shifted by it.
    """

    value: float
    low: float
    high: float
    standard_error: float
    bias: float


@dataclass(frozen=True)
class OperatingPoint:
    """
    What a category detects above a score threshold, at an IoU threshold of 0.5.

    Attributes:
        threshold: detections with at least this score are kept.
        precision, recall, f1: rates.
        true, false: number of true and false positives.
    """

    threshold: float
    precision: float
    recall: float
    f1: float
    true: int
    false: int


@dataclass(frozen=True)
class LRP:
    """
    Error by LRP at its optimal score threshold.

    Attributes:
        error: oLRP, and its components:
        localisation, false_positive, false_negative: mean 1 - IoU, 1 - precision, 1 - recall.
        threshold: the optimal threshold; for a group, NaN.
    """

    error: float
    localisation: float
    false_positive: float
    false_negative: float
    threshold: float


@dataclass(frozen=True)
class CategoryResult:
    """
    The numbers of a category.

    Attributes:
        id, name: of the annotation file.
        group: "r", "c" or "f".
        training_images: training images with the category; None if the file does not state it.
        objects, images: annotated objects, and images that contain them.
        judged_images: images in which detections of the category count.
        detections: detections that count, and are not ignored at an IoU threshold of 0.5.
        ap, ap50, ap75, ar, recall50: AP, AP50, AP75, mean recall over IoU thresholds, and recall at 0.5.
        ap_fixed, ap_boundary: AP-fixed and boundary AP.
        at_threshold, best_f1: at the score threshold of the analysis, and at that of the highest F1.
        lrp: LRP error.
        laece, laece_all: LaECE above the LRP-optimal threshold, and of all detections.
        errors, ap_lost: by error type, the number of errors, and the AP50 of the category that correcting them adds.
    """

    id: int
    name: str
    group: str
    training_images: int | None
    objects: int
    images: int
    judged_images: int
    detections: int
    ap: float
    ap50: float
    ap75: float
    ar: float
    recall50: float
    ap_fixed: float
    ap_boundary: float
    at_threshold: OperatingPoint
    best_f1: OperatingPoint
    lrp: LRP
    laece: float
    laece_all: float
    errors: dict[str, int]
    ap_lost: dict[str, float]


@dataclass(frozen=True)
class FixedAP:
    """
    AP-fixed.

    Attributes:
        metrics: AP, AP50, AP75, APs, APm, APl, APr, APc and APf.
        pooled: AP-pool of "all", "r", "c" and "f".
        detections_per_category: limit, over the dataset.
        categories_below_limit: categories with objects that have fewer detections: more could raise AP-fixed.
    """

    metrics: dict[str, float]
    pooled: dict[str, float]
    detections_per_category: int
    categories_below_limit: int


@dataclass(frozen=True)
class ErrorTypes:
    """
    Error types at an IoU threshold of 0.5.

    Attributes:
        counts: {type: {"all", "r", "c", "f", "small", "medium", "large": number of errors}}.
        ap_lost: {type: {...}} AP50 that correcting them adds: mean of all categories and of each group; by size, mean
            of all categories when only the errors of this size are corrected.
        all_missed: {"all", "r", "c", "f": number of categories all of whose objects are missed}. Each adds its whole
            AP50 of 100 to the AP lost by missed objects.
    """

    counts: dict[str, dict[str, int]]
    ap_lost: dict[str, dict[str, float]]
    all_missed: dict[str, int]


@dataclass(frozen=True)
class ConfusedPair:
    """
    Detections of one category on objects of another.

    Attributes:
        detected, annotated: category ids.
        count: number of such detections.
        above_threshold: those with a score of at least the best-F1 threshold of the detected category.
        opportunities: objects of the annotated category in images where the detected one is judged.
        rate: ``count`` in percent of ``opportunities``; above 100 if there are several detections per object.
        ap_lost: AP50 of the dataset that correcting them adds.
    """

    detected: int
    annotated: int
    count: int
    above_threshold: int
    opportunities: int
    rate: float
    ap_lost: float


@dataclass(frozen=True)
class ReliabilityBin:
    """
    Attributes:
        low, high: range of scores; ``low`` is only inside the first bin.
        count: detections that are not ignored.
        mean_score: their mean score.
        precision: share of true positives in 0..1, at an IoU threshold of 0.5.
    """

    low: float
    high: float
    count: int
    mean_score: float
    precision: float


@dataclass(frozen=True)
class CalibrationErrors:
    """
    Calibration of one group of categories.

    Attributes:
        reliability: bins of the reliability diagram.
        ece: expected calibration error.
        laece, laece_all: LaECE above LRP-optimal thresholds, and of all detections; means over categories.
        lrp: LRP error, mean over categories.
    """

    reliability: list[ReliabilityBin]
    ece: float
    laece: float
    laece_all: float
    lrp: LRP


@dataclass(frozen=True)
class Bootstrap:
    """
    Attributes:
        samples: number of resamples.
        seed: seed of the random numbers.
        level: share of the resamples in an interval.
        metrics: AP, APr, APc and APf.
    """

    samples: int
    seed: int
    level: float
    metrics: dict[str, Interval]


@dataclass(frozen=True)
class TaskResult:
    """
    The numbers of boxes or masks.

    Attributes:
        metrics: the 13 metrics of the LVIS API.
        fixed: AP-fixed and AP-pool.
        boundary: boundary AP by metric, as ``fixed.metrics``; None for boxes.
        errors: error types.
        calibration: by "all", "r", "c" and "f".
        bootstrap: uncertainty of AP; None if there were no resamples.
        categories: one per category, by id.
        confusion: pairs of categories, by falling cost.
    """

    metrics: dict[str, float]
    fixed: FixedAP
    boundary: dict[str, float] | None
    errors: ErrorTypes
    calibration: dict[str, CalibrationErrors]
    bootstrap: Bootstrap | None
    categories: list[CategoryResult]
    confusion: list[ConfusedPair]


@dataclass(frozen=True)
class ResultsSource:
    """
    What was analysed.

    Attributes:
        results: path of the detections.
        annotations: path of the annotation file.
        annotations_sha256: SHA-256 of the annotation file; empty if it was not read from a file.
        images, detections: number of images in the annotation file, and of stored detections.
        most_per_image: largest number of detections of an image.
        images_with_most: number of images with this number of detections.
        groups: definition of rare, common and frequent categories.
    """

    results: str
    annotations: str
    annotations_sha256: str
    images: int
    detections: int
    most_per_image: int
    images_with_most: int
    groups: str


@dataclass(frozen=True)
class Analysis:
    """
    An analysis of detections.

    Attributes:
        source: what was analysed.
        score_threshold: threshold of ``at_threshold`` of all categories.
        tasks: by "bbox" and "segm".
        format: version of the format.
    """

    source: ResultsSource
    score_threshold: float
    tasks: dict[str, TaskResult]
    format: int = field(default=FORMAT)

    def to_json(self) -> dict:
        """The tree as dicts, lists, numbers and strings."""
        return dataclasses.asdict(self)

    def save(self, path: str | os.PathLike) -> None:
        """Write a JSON file."""
        write_json(path, self.to_json())

    @classmethod
    def from_json(cls, content: Any) -> Analysis:
        """
        Inverse of :meth:`to_json`.

        Raises:
            InputError: if the content is not that of an analysis, or of another format.
        """
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise InputError(
                f"The file is not an analysis of format {FORMAT}; write it with `balanced-lvis analyze-results`."
            )
        try:
            return _read(cls, content)
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise InputError(f"The file is not a complete analysis ({error}); write it again.") from error

    @classmethod
    def load(cls, path: str | os.PathLike) -> Analysis:
        """
        Read the file that :meth:`save` wrote.

        Raises:
            InputError: if the file can't be read.
        """
        return cls.from_json(read_json(path, "Analysis", "write it again with `balanced-lvis analyze-results`"))


@dataclass(frozen=True)
class ComparedMetric:
    """
    A metric of two results.

    Attributes:
        first, second: of each.
        difference: first minus second.
    """

    first: Interval
    second: Interval
    difference: Interval


@dataclass(frozen=True)
class Comparison:
    """
    A comparison of two results on the same images.

    Attributes:
        first, second: what was compared.
        samples: number of bootstrap resamples, which are the same for both.
        seed: seed of the random numbers.
        level: share of the resamples in an interval.
        tasks: AP, APr, APc and APf by task.
        direction: of the differences.
    """

    first: ResultsSource
    second: ResultsSource
    samples: int
    seed: int
    level: float
    tasks: dict[str, dict[str, ComparedMetric]]
    direction: str = "first minus second"

    def save(self, path: str | os.PathLike) -> None:
        """Write a JSON file."""
        write_json(path, dataclasses.asdict(self), indent=1)


def _read(kind: Any, content: Any) -> Any:
    """Convert JSON to a dataclass, a list, a dict or a plain value of type ``kind``."""
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return kind(**{name: _read(hint, content[name]) for name, hint in hints.items()})  # type: ignore[operator]
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is list:
        return [_read(arguments[0], item) for item in content]
    if origin is dict:
        return {key: _read(arguments[1], item) for key, item in content.items()}
    if origin in (typing.Union, types.UnionType):
        return None if content is None else _read(arguments[0], content)
    return math.nan if kind is float and content is None else kind(content)
