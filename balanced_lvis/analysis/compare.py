"""The difference of AP of two results on the same images."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

import numpy as np

from ..evaluation.annotation_loader import load_annotations
from ..evaluation.detection_store import Detections
from ..utils.errors import InputError
from ..utils.user_paths import path_of
from .analyze import BOOTSTRAPPED, Matches, Options, analyze_detections
from .bootstrap import centred_interval, paired_difference
from .export import COMPARISON_FILE, write_files
from .model import Analysis, ComparedMetric, Comparison
from .sources import TASK_NAMES, Opened, check_results, opened

logger = logging.getLogger(__name__)

# By task and metric: the value, and its values in the resamples.
Resampled = dict[str, dict[str, tuple[float, np.ndarray]]]


def compare_results(
    first: str | os.PathLike | Detections,
    second: str | os.PathLike | Detections,
    annotations: str | os.PathLike,
    options: Options | None = None,
    output: str | os.PathLike | None = None,
    on_analysis: Callable[[Analysis], None] | None = None,
) -> Comparison:
    """
    Compare AP, APr, APc and APf of two results: first minus second, with intervals.

    Args:
        first, second: as ``results`` of :func:`~balanced_lvis.analysis.analyze_results`, on the same images.
        annotations: path of the annotation file, in LVIS format.
        options: see :class:`~balanced_lvis.analysis.Options`; ``samples`` must not be 0.
        output: folder for the files of the analysis of the first results, and for ``comparison.json``; None to write
            none.
        on_analysis: called with the analysis of the first results, before the second are analysed.

    Raises:
        InputError: if results or annotations can't be read, if the results have no task in common, or as
            :func:`~balanced_lvis.analysis.analyze_detections`.
    """
    options = options or Options()
    options.check()
    if not options.samples:
        raise InputError("samples is 0; a comparison needs resamples: set it to 2 or more.")
    for results in (first, second):
        check_results(results)
    path = path_of(annotations, "annotations")
    lvis_gt = load_annotations(path)
    with opened(first, path, lvis_gt) as found, opened(second, path, lvis_gt) as other:
        tasks = common_tasks(found, other)
        analysis, matches = analyze_detections(lvis_gt, found.detections, found.tasks, options, found.path, path)
        if on_analysis is not None:
            on_analysis(analysis)
        if output is not None:
            write_files(analysis, matches, output)
        values = resampled_metrics(analysis, matches, tasks)
        del matches  # frees memory for the second
        compared, matches = analyze_detections(lvis_gt, other.detections, tasks, options, other.path, path)
    comparison = Comparison(
        analysis.source,
        compared.source,
        options.samples,
        options.seed,
        options.level,
        compared_metrics(values, resampled_metrics(compared, matches, tasks), options.level),
    )
    if output is not None:
        comparison.save(os.path.join(output, COMPARISON_FILE))
    return comparison


def common_tasks(first: Opened, second: Opened) -> tuple[str, ...]:
    """
    Returns:
        the tasks of both. Others are logged.

    Raises:
        InputError: if there are none.
    """
    common = tuple(task for task in first.tasks if task in second.tasks)
    if not common:
        names = [" and ".join(TASK_NAMES[task].lower() for task in own.tasks) for own in (first, second)]
        raise InputError(
            f"{first.path} has only {names[0]} and {second.path} only {names[1]}, so that they can't be compared; pass "
            "results that both have boxes or both have masks."
        )
    for own, other in ((first, second), (second, first)):
        if dropped := [TASK_NAMES[task] for task in own.tasks if task not in common]:
            logger.warning("%s of %s not compared: %s has none", ", ".join(dropped), own.path, other.path)
    return common


def resampled_metrics(analysis: Analysis, matches: dict[str, Matches], tasks: tuple[str, ...]) -> Resampled:
    """AP, APr, APc and APf of an analysis, each with its (S,) values in the resamples."""
    return {
        task: {
            name: (analysis.tasks[task].metrics[name], matches[task].resamples[:, index])
            for index, name in enumerate(BOOTSTRAPPED)
        }
        for task in tasks
    }


def compared_metrics(first: Resampled, second: Resampled, level: float) -> dict[str, dict[str, ComparedMetric]]:
    """
    Compare metrics of the same resamples.

    Args:
        first, second: from :func:`resampled_metrics`, with the same tasks.
        level: share of the resamples inside an interval.
    """
    return {
        task: {
            name: ComparedMetric(
                centred_interval(*one, level),
                centred_interval(*second[task][name], level),
                paired_difference(one, second[task][name], level),
            )
            for name, one in own.items()
        }
        for task, own in first.items()
    }
