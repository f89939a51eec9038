"""
The analysis of detections, on the synthetic data of :mod:`benchmarks.lvis_evaluation`.

The whole analysis is measured at ``--images`` images, boxes and masks, with 1,000 bootstrap resamples. At a tenth, two
of its parts are compared with plain implementations: AP-fixed with the LVIS API on the 10,000 best detections of each
category, as in the code of its authors, and the bootstrap with one evaluation of the same matches per resample. Each
contender runs in a new process. Not timed: imports, loading the ground truth, building dicts for the LVIS API, and the
matching, for the bootstrap.
"""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict

import numpy as np

from balanced_lvis.analysis import Options as AnalysisOptions
from balanced_lvis.analysis import analyze_detections
from balanced_lvis.analysis.average_precision import (
    POOLS,
    curve,
    groups_of,
    in_group,
    lvis_metrics,
    precision_and_recall,
)
from balanced_lvis.analysis.bootstrap import image_weights, resampled_ap
from balanced_lvis.analysis.matching import (
    ALL_AREAS,
    DETECTIONS_PER_CATEGORY,
    FALSE,
    THRESHOLDS,
    TRUE,
    MatchTable,
    match_detections,
)
from balanced_lvis.evaluation.backends import GroundTruth
from balanced_lvis.evaluation.lvis_api import IOU_TYPES, evaluate_on_lvis

from .lvis_evaluation import DETECTIONS_PER_IMAGE, load_data
from .measure import Options, in_fresh_process, row

COMPARED_RESAMPLES = 10


def analysis(options: Options) -> list[dict]:
    """The whole analysis, AP-fixed and the bootstrap."""
    rows = []
    for images, measured in ((max(1, options.images // 10), (_fixed, _bootstrap)), (options.images, (_whole,))):
        with tempfile.TemporaryDirectory() as folder:
            job = {"folder": folder, "images": images}
            in_fresh_process("benchmarks.lvis_evaluation:make_data", job)
            rows += [measure(job) for measure in measured]
    return rows


def _whole(job: dict) -> dict:
    found = in_fresh_process(f"{__name__}:run_whole", job)
    size = (
        f"{job['images']} images x {DETECTIONS_PER_IMAGE} detections, {' and '.join(IOU_TYPES)}, everything: "
        f"{found['processor_seconds']:.0f} s of processor time"
    )
    return row("analysis", size, [], [found["seconds"]], (None, found["peak_mb"]), identical=None)


def run_whole(job: dict) -> dict:
    """Everything, in this process; also the processor time."""
    lvis_gt, detections = load_data(job)
    start, processor = time.perf_counter(), time.process_time()
    analyze_detections(lvis_gt, detections, options=AnalysisOptions())
    return {"seconds": time.perf_counter() - start, "processor_seconds": time.process_time() - processor}


def _fixed(job: dict) -> dict:
    stock, native = (in_fresh_process(f"{__name__}:{name}", job) for name in ("run_plain_fixed", "run_fixed"))
    size = f"{job['images']} images x {DETECTIONS_PER_IMAGE} detections, segm, AP-fixed"
    return _compared(size, stock, native, identical=stock["metrics"] == native["metrics"])


def run_plain_fixed(job: dict) -> dict:
    """The LVIS API without a limit per image."""
    lvis_gt, detections = load_data(job)
    by_category = defaultdict(list)
    for record in (record for batch in detections.records() for record in batch):
        by_category[record["category_id"]].append(record)
    start = time.perf_counter()
    best = []
    for records in by_category.values():
        best += sorted(records, key=lambda record: -record["score"])[:DETECTIONS_PER_CATEGORY]
    metrics, _ = evaluate_on_lvis(lvis_gt, best, "segm", max_dets=-1)
    return {"seconds": time.perf_counter() - start, "metrics": _comparable(metrics)}


def run_fixed(job: dict) -> dict:
    """AP-fixed of the analysis."""
    lvis_gt, detections = load_data(job)
    start = time.perf_counter()
    table = match_detections(GroundTruth(lvis_gt), detections, "segm")
    table = table.select(table.fixed)
    metrics = lvis_metrics(table, *precision_and_recall(table))
    return {"seconds": time.perf_counter() - start, "metrics": _comparable(metrics)}


def _comparable(metrics: dict[str, float]) -> list[float | None]:
    """None, unlike NaN, equals itself."""
    return [None if value != value else value for value in metrics.values()]


def _bootstrap(job: dict) -> dict:
    stock, native = (in_fresh_process(f"{__name__}:{name}", job) for name in ("run_plain_bootstrap", "run_bootstrap"))
    same = np.allclose(stock["resamples"], native["resamples"], rtol=0, atol=1e-9, equal_nan=True)
    size = f"{job['images']} images x {DETECTIONS_PER_IMAGE} detections, segm, {COMPARED_RESAMPLES} bootstrap resamples"
    return _compared(size, stock, native, identical=same)


def run_bootstrap(job: dict) -> dict:
    """The bootstrap of the analysis."""
    return _resampled(job, resampled_ap)


def run_plain_bootstrap(job: dict) -> dict:
    """One resample after the other, with every detection as often as its image."""
    return _resampled(job, plain_resampled_ap)


def _resampled(job: dict, bootstrap) -> dict:
    lvis_gt, detections = load_data(job)
    table = match_detections(GroundTruth(lvis_gt), detections, "segm")
    weights = image_weights(job["images"], COMPARED_RESAMPLES, seed=0)
    start = time.perf_counter()
    found = bootstrap(table, weights)
    return {"seconds": time.perf_counter() - start, "resamples": found.tolist()}


def plain_resampled_ap(table: MatchTable, weights: np.ndarray) -> np.ndarray:
    """As :func:`balanced_lvis.analysis.bootstrap.resampled_ap`."""
    groups = groups_of(table)
    members = [in_group(groups, pool) for pool in POOLS]
    return np.array([[_mean(table, own, chosen) for chosen in members] for own in weights])


def _mean(table: MatchTable, weights: np.ndarray, chosen: np.ndarray) -> float:
    values = []
    objects = np.repeat(table.objects.categories, weights[table.objects.images])
    for category in np.flatnonzero(chosen & (np.bincount(objects, minlength=table.num_categories) > 0)):
        own = np.arange(*table.bounds[category : category + 2])
        own = np.repeat(own, weights[table.images[own]])
        for threshold in range(len(THRESHOLDS)):
            status = table.status[threshold, ALL_AREAS, own]
            values.append(curve(status == TRUE, status == FALSE, int((objects == category).sum()))[0].mean())
    return 100 * float(np.mean(values)) if values else np.nan


def _compared(size: str, stock: dict, native: dict, identical: bool) -> dict:
    peaks = stock["peak_mb"], native["peak_mb"]
    return row("analysis", size, [stock["seconds"]], [native["seconds"]], peaks, identical=identical)
