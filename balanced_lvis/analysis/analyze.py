"""All numbers of an analysis, from one matching per task."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..data.frequency import missing_groups, source_of_groups
from ..evaluation.backends import GroundTruth, check_images, oddity_of_detections, ranks
from ..evaluation.detection_store import Detections
from ..evaluation.lvis_api import LVIS, METRICS, check_iou_type, possible_tasks
from ..utils.errors import InputError
from ..utils.io import cached_sha256
from .average_precision import POOLS, groups_of, in_group, lvis_metrics, pooled_ap, precision_and_recall
from .bootstrap import LEVEL, SAMPLES, centred_interval, image_weights, resampled_ap
from .boundary import boundary_table
from .calibration import (
    ECE_BINS,
    Bins,
    LaECE,
    OptimalLRP,
    Ranking,
    expected_calibration_error,
    laece,
    optimal_lrp,
    rankings,
    reliability_bins,
)
from .confusion import confused_pairs
from .error_types import ERROR_TYPES, SIZES, Errors, ap_lost, counted, error_areas, find_errors, size_of
from .matching import ALL_AREAS, DETECTIONS_PER_CATEGORY, MatchTable, match_detections
from .model import (
    LRP,
    Analysis,
    Bootstrap,
    CalibrationErrors,
    CategoryResult,
    ConfusedPair,
    ErrorTypes,
    FixedAP,
    Interval,
    OperatingPoint,
    ReliabilityBin,
    ResultsSource,
    TaskResult,
)
from .per_category import OperatingPoints, at_threshold, best_f1

logger = logging.getLogger(__name__)

BOOTSTRAPPED = ("AP", "APr", "APc", "APf")
AP_METRICS = METRICS[:9]  # without AR
SCORE_THRESHOLD = 0.5


@dataclass(frozen=True)
class Options:
    """
    Options of an analysis.

    Attributes:
        score_threshold: score threshold at which precision and recall of each category are given.
        samples: number of bootstrap resamples; 0 for none.
        seed: seed of the bootstrap.
        level: share of the resamples in an interval.
    """

    score_threshold: float = SCORE_THRESHOLD
    samples: int = SAMPLES
    seed: int = 0
    level: float = LEVEL

    def check(self) -> None:
        """
        Raises:
            InputError: if a value is invalid.
        """
        if not 0 <= self.score_threshold <= 1:
            raise InputError(f"score_threshold is {self.score_threshold}; it must be a number between 0 and 1.")
        if self.samples < 0 or self.samples == 1:
            raise InputError(f"samples is {self.samples}; it must be 0, for no bootstrap, or 2 or more.")
        if self.seed < 0:
            raise InputError(f"seed is {self.seed}; it must be 0 or more.")
        if not 0 < self.level < 1:
            raise InputError(f"level is {self.level}; it must be a number between 0 and 1, such as 0.95.")


@dataclass(frozen=True)
class Matches:
    """
    What an analysis of one task was computed from.

    Attributes:
        table: matches of at most 300 detections per image.
        errors: its errors.
        resamples: (S, 4) AP, APr, APc and APf of each bootstrap resample.
    """

    table: MatchTable
    errors: Errors
    resamples: np.ndarray


def analyze_detections(
    lvis_gt: LVIS,
    detections: Detections,
    tasks: Sequence[str] = ("bbox", "segm"),
    options: Options | None = None,
    results: str = "",
    annotations: str = "",
) -> tuple[Analysis, dict[str, Matches]]:
    """
    Analyse stored detections by the rules of LVIS.

    Args:
        lvis_gt: ground truth. It is not changed.
        detections: detections on its images.
        tasks: "bbox", "segm" or both. "segm" is dropped if annotations have no masks.
        options: see :class:`Options`.
        results, annotations: paths, stored in :class:`~balanced_lvis.analysis.model.ResultsSource`.

    Returns:
        the analysis, and the matches of each task.

    Raises:
        InputError: if an option or a task is invalid; if the annotation file has no groups of categories, no
            annotations, or content that the LVIS API treats specially, such as ignored annotations; if annotations
            have no masks, and only "segm" is requested; if there are detections on images that are not in the file, or
            with scores or boxes that are not finite.
    """
    options = options or Options()
    options.check()
    truth, tasks = _checked(lvis_gt, detections, tasks, annotations)
    weights = image_weights(len(truth.image_ids), options.samples, options.seed)
    done, matches = {}, {}
    for task in tasks:
        logger.info("Analysing %s", task)
        work = _TaskAnalysis(match_detections(truth, detections, task), detections, task, options)
        done[task], matches[task] = work.result(weights)
    return Analysis(_source(truth, detections, results, annotations), options.score_threshold, done), matches


@dataclass(frozen=True)
class Resampled:
    """
    What a comparison needs of results.

    Attributes:
        source: what they are.
        tasks: by task and metric (AP, APr, APc and APf), the value, and (S,) its values in the bootstrap resamples.
    """

    source: ResultsSource
    tasks: dict[str, dict[str, tuple[float, np.ndarray]]]


def resample_detections(
    lvis_gt: LVIS, detections: Detections, tasks: Sequence[str], options: Options, results: str, annotations: str
) -> Resampled:
    """
    The part of :func:`analyze_detections` that a comparison needs. Arguments and errors are the same.
    """
    truth, tasks = _checked(lvis_gt, detections, tasks, annotations)
    weights = image_weights(len(truth.image_ids), options.samples, options.seed)
    done = {}
    for task in tasks:
        logger.info("Resampling %s", task)
        table = match_detections(truth, detections, task)
        table = table.select(table.standard)
        metrics = lvis_metrics(table, *precision_and_recall(table))
        done[task] = resampled_metrics(metrics, resampled_ap(table, weights))
    return Resampled(_source(truth, detections, results, annotations), done)


def resampled_metrics(metrics: dict[str, float], resamples: np.ndarray) -> dict[str, tuple[float, np.ndarray]]:
    """
    Args:
        metrics: of the LVIS API.
        resamples: (S, 4) AP, APr, APc and APf of each resample.

    Returns:
        an entry of :attr:`Resampled.tasks`.
    """
    return {name: (metrics[name], values) for name, values in zip(BOOTSTRAPPED, resamples.T)}


def _source(truth: GroundTruth, detections: Detections, results: str, annotations: str) -> ResultsSource:
    found = detections.images
    _, which = np.unique(found["id"], return_inverse=True)
    per_image = np.bincount(which, found["detections"]).astype(np.int64)
    most = int(per_image.max(initial=0))
    return ResultsSource(
        results,
        annotations,
        cached_sha256(annotations) if os.path.isfile(annotations) else "",
        len(truth.image_ids),
        len(detections),
        most,
        int(np.count_nonzero(per_image == most)),
        source_of_groups(truth.lvis.dataset),
    )


def _checked(
    lvis_gt: LVIS, detections: Detections, tasks: Sequence[str], annotations: str
) -> tuple[GroundTruth, tuple[str, ...]]:
    """The ground truth, and the tasks that can be analysed."""
    for task in tasks:
        check_iou_type(task)
    if problem := missing_groups([*lvis_gt.cats.values()]):
        raise InputError(f"The annotations can't be used for an analysis: {problem}")
    check_images(lvis_gt, detections)
    truth = GroundTruth(lvis_gt)
    if not truth.annotations:
        raise InputError("The annotation file has no objects, so there is nothing to compare detections with.")
    if oddity := truth.oddity():
        raise InputError(f"{oddity} can't be analysed; remove or correct them.")
    if oddity := oddity_of_detections(detections):
        raise InputError(f"{oddity} can't be analysed; remove these detections.")
    return truth, possible_tasks(tasks, lvis_gt, annotations or "the annotation file")


class _TaskAnalysis:
    """The analysis of one task."""

    def __init__(self, table: MatchTable, detections: Detections, task: str, options: Options):
        self.fixed_table = table.select(table.fixed)
        self.table = table.select(table.standard)
        self.detections, self.task, self.options = detections, task, options
        self.groups = groups_of(table)
        self.num_objects = table.objects.per_category(table.num_categories)
        self.precision, self.recall = precision_and_recall(self.table)
        self.errors = find_errors(self.table)

    def result(self, weights: np.ndarray) -> tuple[TaskResult, Matches]:
        table = self.table
        metrics = lvis_metrics(table, self.precision, self.recall)
        fixed, fixed_precision = self._fixed()
        boundary, boundary_precision = self._boundary()
        ranked = rankings(table)
        lrp, aware = optimal_lrp(ranked, self.num_objects), laece(table, self.num_objects)
        lost, lost_by_size = ap_lost(table, self.errors)
        best = best_f1(ranked, self.num_objects)
        counts = self._error_counts()
        resamples = resampled_ap(table, weights) if len(weights) else np.zeros((0, len(BOOTSTRAPPED)))
        result = TaskResult(
            metrics,
            fixed,
            boundary,
            self._errors(counts, lost, lost_by_size),
            self._calibration(reliability_bins(table), aware, lrp),
            self._bootstrap(metrics, resamples),
            self._categories(fixed_precision, boundary_precision, ranked, best, lrp, aware, counts, lost),
            self._confusion(best.thresholds),
        )
        return result, Matches(table, self.errors, resamples)

    def _fixed(self) -> tuple[FixedAP, np.ndarray]:
        same = self.fixed_table is self.table  # no limit leaves out a detection
        precision, recall = (self.precision, self.recall) if same else precision_and_recall(self.fixed_table)
        metrics = lvis_metrics(self.fixed_table, precision, recall)
        categories = ranks(self.table.truth.category_ids, self.detections.category_ids_of_classes())
        number = self.table.num_categories
        found = np.bincount(categories[self.detections.classes], minlength=number + 1)[:number]
        below = (self.num_objects > 0) & (found < DETECTIONS_PER_CATEGORY)
        fixed = FixedAP(
            {name: metrics[name] for name in AP_METRICS},
            pooled_ap(self.fixed_table),
            DETECTIONS_PER_CATEGORY,
            int(np.count_nonzero(below)),
        )
        return fixed, precision

    def _boundary(self) -> tuple[dict[str, float] | None, np.ndarray | None]:
        if self.task != "segm":
            return None, None
        table = boundary_table(self.table, self.detections)
        precision, recall = precision_and_recall(table)
        metrics = lvis_metrics(table, precision, recall)
        return {name: metrics[name] for name in AP_METRICS}, precision

    def _errors(self, counts: np.ndarray, lost: np.ndarray, lost_by_size: np.ndarray) -> ErrorTypes:
        by_size = self._counts_by_size()
        groups = [in_group(self.groups, pool) for pool in POOLS]
        all_missed = (self.num_objects > 0) & (counts[-1] == self.num_objects)
        return ErrorTypes(
            {
                name: {
                    **{pool: int(counts[index, chosen].sum()) for pool, chosen in zip(POOLS, groups)},
                    **dict(zip(SIZES, by_size[index].tolist())),
                }
                for index, name in enumerate(ERROR_TYPES)
            },
            {
                name: {
                    **{pool: _mean(lost[index, chosen]) for pool, chosen in zip(POOLS, groups)},
                    **dict(zip(SIZES, lost_by_size[index].tolist())),
                }
                for index, name in enumerate(ERROR_TYPES)
            },
            {pool: int(np.count_nonzero(all_missed[chosen])) for pool, chosen in zip(POOLS, groups)},
        )

    def _error_counts(self) -> np.ndarray:
        """(E, K) number of errors. A missed object counts for its own category."""
        missed = self.table.objects.categories[self.errors.missed]
        return self._counts(self.table.categories, missed, self.table.num_categories)

    def _counts_by_size(self) -> np.ndarray:
        """(E, S) number of errors."""
        missed = size_of(self.table.objects.areas[self.errors.missed])
        return self._counts(size_of(error_areas(self.table, self.errors)), missed, len(SIZES))

    def _counts(self, of_detections: np.ndarray, of_missed: np.ndarray, number: int) -> np.ndarray:
        wrong = self.errors.types >= 0
        place = self.errors.types[wrong] * number + of_detections[wrong]
        counts = np.bincount(place, minlength=len(ERROR_TYPES) * number).reshape(-1, number)
        counts[-1] = np.bincount(of_missed, minlength=number)
        return counts

    def _calibration(self, bins: Bins, aware: LaECE, lrp: OptimalLRP) -> dict[str, CalibrationErrors]:
        edges = np.linspace(0, 1, ECE_BINS + 1).tolist()
        result = {}
        for pool in POOLS:
            chosen = in_group(self.groups, pool)
            own = Bins(*(getattr(bins, name)[chosen].sum(axis=0) for name in ("counts", "true", "scores", "ious")))
            columns = (edges, edges[1:], own.counts.tolist(), own.mean_scores().tolist(), own.precision().tolist())
            has_objects = chosen & (self.num_objects > 0)
            result[pool] = CalibrationErrors(
                [ReliabilityBin(*values) for values in zip(*columns)],
                expected_calibration_error(own),
                _mean(aware.error[has_objects]),
                _mean(aware.all_detections[has_objects]),
                LRP(
                    _mean(lrp.error[has_objects]), _mean(lrp.localisation[has_objects]),
                    _mean(lrp.false_positive[has_objects]), _mean(lrp.false_negative[has_objects]), math.nan,
                ),
            )  # fmt: skip
        return result

    def _bootstrap(self, metrics: dict[str, float], resamples: np.ndarray) -> Bootstrap | None:
        if not len(resamples):
            return None
        options = self.options
        intervals: dict[str, Interval] = {
            name: centred_interval(metrics[name], values, options.level)
            for name, values in zip(BOOTSTRAPPED, resamples.T)
        }
        return Bootstrap(options.samples, options.seed, options.level, intervals)

    def _categories(
        self,
        fixed: np.ndarray,
        boundary: np.ndarray | None,
        ranked: list[Ranking],
        best: OperatingPoints,
        lrp: OptimalLRP,
        aware: LaECE,
        counts: np.ndarray,
        lost: np.ndarray,
    ) -> list[CategoryResult]:
        table, number = self.table, self.table.num_categories
        at_score = at_threshold(ranked, self.num_objects, self.options.score_threshold)
        _, kept = counted(table)
        detections = np.bincount(table.categories[kept], minlength=number)
        judged = table.truth.judged()[:, :number]
        annotated = np.zeros_like(judged)
        annotated[table.objects.images, table.objects.categories] = True
        ap, recall = self.precision[..., ALL_AREAS], self.recall[..., ALL_AREAS]
        result = []
        for k, category_id in enumerate(table.truth.category_ids.tolist()):
            category = table.truth.lvis.cats[category_id]
            result.append(
                CategoryResult(
                    category_id,
                    str(category["name"]),
                    category["frequency"],
                    category.get("image_count"),
                    int(self.num_objects[k]),
                    int(annotated[:, k].sum()),
                    int(judged[:, k].sum()),
                    int(detections[k]),
                    _average(ap[:, :, k]),
                    _average(ap[0, :, k]),
                    _average(ap[5, :, k]),
                    _average(recall[:, k]),
                    _average(recall[:1, k]),
                    _average(fixed[:, :, k, ALL_AREAS]),
                    math.nan if boundary is None else _average(boundary[:, :, k, ALL_AREAS]),
                    _point(at_score, k),
                    _point(best, k),
                    LRP(*(float(getattr(lrp, name)[k]) for name in _LRP_COLUMNS)),
                    float(aware.error[k]),
                    float(aware.all_detections[k]),
                    dict(zip(ERROR_TYPES, counts[:, k].tolist())),
                    dict(zip(ERROR_TYPES, lost[:, k].tolist())),
                )
            )
        return result

    def _confusion(self, thresholds: np.ndarray) -> list[ConfusedPair]:
        columns = confused_pairs(self.table, self.errors, thresholds)
        ids = self.table.truth.category_ids
        columns["detected"], columns["annotated"] = ids[columns["detected"]], ids[columns["annotated"]]
        return [ConfusedPair(*values) for values in zip(*(column.tolist() for column in columns.values()))]


_LRP_COLUMNS = ("error", "localisation", "false_positive", "false_negative", "thresholds")


def _point(points: OperatingPoints, category: int) -> OperatingPoint:
    columns = (points.thresholds, points.precision, points.recall, points.f1, points.true, points.false)
    return OperatingPoint(*(column[category].item() for column in columns))


def _average(values: np.ndarray) -> float:
    """Mean in percent; NaN for the API's -1, without objects."""
    known = values[values > -1]
    return float(known.mean()) * 100 if len(known) else math.nan


def _mean(values: np.ndarray) -> float:
    """Mean of the values that are defined; NaN without any."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan
