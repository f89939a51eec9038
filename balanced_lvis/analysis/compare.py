"""The difference of AP of two results on the same images."""

from __future__ import annotations

import contextlib
import logging
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from ..evaluation.annotation_loader import load_annotations
from ..evaluation.detection_store import Detections
from ..evaluation.lvis_api import LVIS
from ..utils.errors import InputError
from ..utils.io import cached_sha256
from ..utils.user_paths import path_of
from .analyze import (
    BOOTSTRAPPED,
    Matches,
    Options,
    Resampled,
    analyze_detections,
    resample_detections,
    resampled_metrics,
)
from .bootstrap import centred_interval, paired_difference
from .export import ANALYSIS_FILE, COMPARISON_FILE, bootstrap_file, write_files
from .model import Analysis, ComparedMetric, Comparison
from .sources import TASK_NAMES, check_results, opened, results_path

logger = logging.getLogger(__name__)

_Resample = Callable[[tuple[str, ...]], Resampled]


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
        first: as ``results`` of :func:`~balanced_lvis.analysis.analyze_results`.
        second: the same, on the same images; or the folder that an analysis with the same options was written to, whose
            resamples are read.
        annotations: path of the annotation file, in LVIS format.
        options: see :class:`~balanced_lvis.analysis.Options`; ``samples`` must not be 0.
        output: folder for the files of the analysis of the first results, and for ``comparison.json``; None to write
            none.
        on_analysis: called with the analysis of the first results, before the second are resampled.

    Raises:
        InputError: if results or annotations can't be read, if the results have no task in common, or as
            :func:`~balanced_lvis.analysis.analyze_detections`; if a saved analysis is incomplete, or of other
            annotations or options; if ``output`` is its folder.
    """
    options = options or Options()
    options.check()
    if not options.samples:
        raise InputError("samples is 0; a comparison needs resamples: set it to 2 or more.")
    check_results(first)
    other: _Saved | _Results = _Results(second) if isinstance(second, Detections) else _other(second)
    if output is not None and isinstance(other, _Saved):
        other.check_not_overwritten(output)
    path = path_of(annotations, "annotations")
    lvis_gt = load_annotations(path)
    with opened(first, path, lvis_gt) as found, other.ready(path, lvis_gt, options) as resample:
        tasks = common_tasks((found.path, found.tasks), (other.path, other.tasks))
        analysis, matches = analyze_detections(lvis_gt, found.detections, found.tasks, options, found.path, path)
        if on_analysis is not None:
            on_analysis(analysis)
        if output is not None:
            write_files(analysis, matches, output)
        values = resampled_of(analysis, matches)
        del matches  # frees memory for the second
        compared = resample(tasks)
    comparison = Comparison(
        analysis.source,
        compared.source,
        options.samples,
        options.seed,
        options.level,
        {task: compared_metrics(values.tasks[task], compared.tasks[task], options.level) for task in tasks},
    )
    if output is not None:
        comparison.save(os.path.join(output, COMPARISON_FILE))
    return comparison


def compared_path(second: str | os.PathLike) -> str:
    """
    Returns:
        path of the results that are compared with others, or of the folder of a saved analysis.

    Raises:
        InputError: if there are neither results nor an analysis.
    """
    return _other(second).path


def _other(second: str | os.PathLike) -> _Saved | _Results:
    """Results, where a folder has both: they may be newer than the analysis."""
    try:
        return _Results(results_path(second))
    except InputError:
        folder = Path(path_of(second, "results"))
        if not (folder / ANALYSIS_FILE).is_file():
            raise
        return _Saved(folder)


class _Results:
    """Results that are resampled."""

    def __init__(self, results: str | Detections):
        self._results = results
        self.path = os.fspath(results.folder) if isinstance(results, Detections) else results
        self.tasks: tuple[str, ...] = ()

    @contextlib.contextmanager
    def ready(self, annotations: str, lvis_gt: LVIS, options: Options) -> Iterator[_Resample]:
        """Context in which the results are open, with a function that resamples tasks."""
        with opened(self._results, annotations, lvis_gt) as found:
            self.tasks = found.tasks
            yield lambda tasks: resample_detections(lvis_gt, found.detections, tasks, options, found.path, annotations)


class _Saved:
    """A saved analysis, whose resamples are read."""

    def __init__(self, folder: Path):
        self.path = str(folder)
        self._analysis = Analysis.load(folder / ANALYSIS_FILE)
        self.tasks = tuple(self._analysis.tasks)

    def check_not_overwritten(self, output: str | os.PathLike) -> None:
        """
        Raises:
            InputError: if the output folder is that of the analysis.
        """
        if os.path.realpath(path_of(output, "output")) == os.path.realpath(self.path):
            raise InputError(
                f"The output folder {os.fspath(output)} is that of the saved analysis to compare with, which would be "
                "overwritten; choose another output folder."
            )

    @contextlib.contextmanager
    def ready(self, annotations: str, lvis_gt: LVIS, options: Options) -> Iterator[_Resample]:
        """
        Context with a function that returns the resamples of tasks, which are read at the start.

        Raises:
            InputError: if the analysis is of other annotations or other resamples, or incomplete.
        """
        remedy = "pass the results themselves, or analyse them again"
        if self._analysis.source.annotations_sha256 != cached_sha256(annotations):
            raise InputError(
                f"The analysis in {self.path} is of other annotations ({self._analysis.source.annotations}) than "
                f"{annotations}; {remedy}."
            )
        for task, result in self._analysis.tasks.items():
            found = (result.bootstrap.samples, result.bootstrap.seed) if result.bootstrap else (0, None)
            if found != (options.samples, options.seed):
                raise InputError(
                    f"The analysis of {TASK_NAMES[task].lower()} in {self.path} has {found[0]} resamples with seed "
                    f"{found[1]}, but {options.samples} with seed {options.seed} are compared; {remedy}."
                )
        resampled = {task: self._read(task, options.samples) for task in self.tasks}
        yield lambda tasks: Resampled(self._analysis.source, {task: resampled[task] for task in tasks})

    def _read(self, task: str, samples: int) -> dict[str, tuple[float, np.ndarray]]:
        path = os.path.join(self.path, bootstrap_file(task))
        try:
            with np.load(path) as arrays:
                columns = [arrays[name] for name in BOOTSTRAPPED]
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise InputError(f"{path} can't be read ({error}); analyse the results again.") from error
        if shapes := [column.shape for column in columns if column.shape != (samples,)]:
            raise InputError(
                f"{path} has an array of shape {shapes[0]}, but its analysis has {samples} resamples; analyse the "
                "results again."
            )
        return resampled_metrics(self._analysis.tasks[task].metrics, np.stack(columns, axis=1))


def common_tasks(first: tuple[str, tuple[str, ...]], second: tuple[str, tuple[str, ...]]) -> tuple[str, ...]:
    """
    Args:
        first, second: path and tasks of results.

    Returns:
        the tasks of both. Others are logged.

    Raises:
        InputError: if there are none.
    """
    common = tuple(task for task in first[1] if task in second[1])
    if not common:
        names = [" and ".join(TASK_NAMES[task].lower() for task in tasks) for _, tasks in (first, second)]
        raise InputError(
            f"{first[0]} has only {names[0]} and {second[0]} only {names[1]}, so that they can't be compared; pass "
            "results that both have boxes or both have masks."
        )
    for (path, tasks), (other, _) in ((first, second), (second, first)):
        if dropped := [TASK_NAMES[task] for task in tasks if task not in common]:
            logger.warning("%s of %s not compared: %s has none", ", ".join(dropped), path, other)
    return common


def resampled_of(analysis: Analysis, matches: dict[str, Matches]) -> Resampled:
    """What a comparison needs of an analysis."""
    tasks = {
        task: resampled_metrics(result.metrics, matches[task].resamples) for task, result in analysis.tasks.items()
    }
    return Resampled(analysis.source, tasks)


def compared_metrics(
    first: dict[str, tuple[float, np.ndarray]], second: dict[str, tuple[float, np.ndarray]], level: float
) -> dict[str, ComparedMetric]:
    """
    Compare the metrics of a task: first minus second.

    Args:
        first, second: entries of :attr:`~balanced_lvis.analysis.analyze.Resampled.tasks`, of the same resamples.
        level: share of the resamples inside an interval.
    """
    return {
        name: ComparedMetric(
            centred_interval(*one, level),
            centred_interval(*second[name], level),
            paired_difference(one, second[name], level),
        )
        for name, one in first.items()
    }
