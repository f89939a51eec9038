"""What a report shows of some runs: numbers, comparisons, curves and views."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ..analysis import Analysis, Options, analyze_detections
from ..analysis.analyze import Resampled
from ..analysis.compare import common_tasks, compared_metrics, resampled_of
from ..analysis.model import ComparedMetric
from ..analysis.sources import Opened, opened
from ..evaluation.annotation_loader import load_annotations
from ..evaluation.backends import GroundTruth
from ..evaluation.lvis_api import LVIS
from ..utils.text import first_of
from .curves import training_curves
from .drawing import Artist, Drawn
from .examples import (
    CategoryExamples,
    Change,
    ImageView,
    ObjectView,
    category_examples,
    changed_objects,
    changes,
    in_rounds,
    worst_and_best_images,
)
from .outcomes import RunOutcomes, outcomes_of
from .photos import SHOWN, Photos

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunNumbers:
    """
    The numbers of one run.

    Attributes:
        name: name to show.
        analysis: its analysis.
        differences: AP, APr, APc and APf by task, of this run minus the first; empty for the first.
        curves: training curves, from :func:`.curves.training_curves`.
    """

    name: str
    analysis: Analysis
    differences: dict[str, dict[str, ComparedMetric]]
    curves: dict[str, dict[str, list[float]]]


@dataclass
class Collected:
    """
    What the page shows.

    Attributes:
        runs: the runs, in the order given.
        tasks: tasks of all runs, masks first.
        changes: categories that changed most, for each run but the first.
        changed_objects: objects that explain them, for each run but the first, by rank of the category.
        images: worst and best images of each run.
        categories: examples of each category, by rank.
        photos: the images.
        drawn: the views.
    """

    runs: list[RunNumbers]
    tasks: tuple[str, ...]
    changes: list[Change]
    changed_objects: list[dict[int, list[ObjectView]]]
    images: list[tuple[list[int], list[int]]]
    categories: list[CategoryExamples]
    photos: Photos
    drawn: Drawn = field(default_factory=Drawn)

    @property
    def notices(self) -> list[str]:
        """What is left out, as sentences."""
        return [notice for notice in (self.photos.problem, self.photos.unreadable, self._left_out()) if notice]

    def _left_out(self) -> str:
        """What is left out to limit the size."""
        drawn = self.drawn
        if not drawn.left_out:
            return ""
        without = [
            category.name
            for category, own in zip(self.runs[0].analysis.tasks[self.tasks[0]].categories, self.categories)
            if own.in_order() and not drawn.indices(own.in_order())
        ]
        chosen = drawn.left_out + len(drawn.views)
        text = (
            f"To limit the size of the file, {drawn.left_out:,} of {chosen:,} chosen image crops "
            f"{'were' if drawn.left_out > 1 else 'was'} left out"
        )
        if not without:
            return f"{text}; all categories have some."
        categories = "1 category has" if len(without) == 1 else f"{len(without):,} categories have"
        return f"{text}; {categories} none ({first_of(without, SHOWN)})."


class Collector:
    """
    Analyses runs one after the other, then draws examples.

    Args:
        annotations: path of the annotation file, in LVIS format.
        image_root: folder of the images; None without one.
        options: of the analyses; ``samples`` must not be 0.
    """

    def __init__(self, annotations: str, image_root: str | os.PathLike | None, options: Options):
        self._path, self._image_root, self._options = annotations, image_root, options
        self._lvis_gt: LVIS = load_annotations(annotations)

    @contextlib.contextmanager
    def collected(self, results: Sequence[str], names: Sequence[str]):
        """
        Args:
            results: paths of the results.
            names: name of each run.

        Yields:
            the numbers, without views, and a function that draws views of up to a number of bytes. Detections of
            results files are stored in a temporary folder until the context ends.
        """
        with contextlib.ExitStack() as stack:
            sources = [stack.enter_context(opened(path, self._path, self._lvis_gt)) for path in results]
            tasks = _tasks_of_all(sources)
            runs, outcomes = self._analysed(sources, names, tasks)
            truth = GroundTruth(self._lvis_gt)
            photos = Photos(self._lvis_gt, truth.image_ids.tolist(), self._image_root)
            exists = np.array([photos.exists(image) for image in range(len(truth.image_ids))])
            changed = changes([_ap(run.analysis, tasks[0]) for run in runs])
            collected = Collected(
                runs,
                tasks,
                changed,
                [changed_objects(change, outcomes, exists) for change in changed],
                [worst_and_best_images(own, exists) for own in outcomes],
                category_examples(outcomes, exists, len(truth.category_ids)),
                photos,
            )
            artist = Artist(truth, photos, [own.detections for own in sources], outcomes, tasks[0] == "segm")

            def draw(limit: int) -> None:
                _draw(collected, artist, limit)

            yield collected, draw

    def _analysed(
        self, sources: Sequence[Opened], names: Sequence[str], tasks: tuple[str, ...]
    ) -> tuple[list[RunNumbers], list[RunOutcomes]]:
        runs: list[RunNumbers] = []
        outcomes: list[RunOutcomes] = []
        first: Resampled | None = None
        for source, name in zip(sources, names):
            logger.info("Analysing %s (%s)", name, source.path)
            analysis, matches = analyze_detections(
                self._lvis_gt, source.detections, tasks, self._options, source.path, self._path
            )
            resampled = resampled_of(analysis, matches)
            differences = first and {
                task: compared_metrics(resampled.tasks[task], first.tasks[task], self._options.level) for task in tasks
            }
            first = first or resampled
            runs.append(RunNumbers(name, analysis, differences or {}, training_curves(source.path)))
            outcomes.append(outcomes_of(matches[tasks[0]], analysis.tasks[tasks[0]].categories))
        return runs, outcomes


def _tasks_of_all(sources: Sequence[Opened]) -> tuple[str, ...]:
    """Tasks of all runs, masks first. Others are logged."""
    tasks = set(sources[0].tasks)
    for other in sources[1:]:
        tasks &= set(common_tasks(*((one.path, one.tasks) for one in (sources[0], other))))
    return tuple(sorted(tasks, reverse=True))


def _ap(analysis: Analysis, task: str) -> np.ndarray:
    return np.array([category.ap for category in analysis.tasks[task].categories])


def _draw(collected: Collected, artist: Artist, limit: int) -> None:
    """In the order of importance; see :mod:`.examples`."""
    if collected.photos.any:
        explained = [view for found in collected.changed_objects for views in found.values() for view in views]
        images = [ImageView(image) for lists in collected.images for one in lists for image in one]
        artist.draw([*explained, *images, *in_rounds(collected.categories, artist.image_of)], collected.drawn, limit)
