"""Detections to analyse: a folder of stored detections, a results file, or the folder of a run."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..evaluation.detection_store import FILES, Detections
from ..evaluation.lvis_api import LVIS, possible_tasks, tasks_of
from ..evaluation.submission import ImageList, read_predictions
from ..utils.errors import InputError
from ..utils.run_files import CONFIG, DETECTIONS, EVALUATION, INFERENCE
from ..utils.user_paths import path_of

TASK_NAMES = {"bbox": "Boxes", "segm": "Masks"}
# Where training and `evaluate` write results, below the folder of a run.
_INFERENCE = ("", INFERENCE, f"{EVALUATION}/{INFERENCE}")


@dataclass(frozen=True)
class Opened:
    """
    Detections that are ready to be analysed.

    Attributes:
        path: path of the results.
        detections: stored detections, with the category ids of the annotation file.
        tasks: "bbox", "segm" or both; without "segm" if annotations have no masks.
    """

    path: str
    detections: Detections
    tasks: tuple[str, ...]


def check_results(results: str | os.PathLike | Detections) -> None:
    """
    Check that results exist, before work that their absence would waste.

    Raises:
        InputError: as for :func:`results_path`.
    """
    if not isinstance(results, Detections):
        results_path(results)


@contextlib.contextmanager
def opened(results: str | os.PathLike | Detections, annotations: str, lvis_gt: LVIS) -> Iterator[Opened]:
    """
    Open results. A results file is validated and stored in a temporary folder while it is open.

    Args:
        results: a results file in LVIS format (JSON or zip), a folder of stored detections, the folder of a run, or
            stored detections.
        annotations: path of the annotation file.
        lvis_gt: its content.

    Raises:
        InputError: if the results can't be read, or have more classes than the annotation file; if they have only
            masks, and annotations have none.
    """

    def ready(detections: Detections, path: str, tasks: tuple[str, ...]) -> Opened:
        return Opened(path, detections, possible_tasks(tasks, lvis_gt, annotations))

    if isinstance(results, Detections):
        _check_classes(results, os.fspath(results.folder), annotations)
        yield ready(results, os.fspath(results.folder), _tasks_of(results))
        return
    path = results_path(results)
    if os.path.isdir(path):
        detections = Detections(path, sorted(lvis_gt.cats))
        detections.require_whole()
        _check_classes(detections, path, annotations)
        yield ready(detections, path, _tasks_of(detections))
        return
    with tempfile.TemporaryDirectory(prefix="analysis_") as folder:
        detections, tasks, _ = read_predictions(path, ImageList(annotations), folder)
        yield ready(detections, path, tasks)


def results_path(results: str | os.PathLike) -> str:
    """
    Args:
        results: path of a results file, of stored detections, or of the folder of a run.

    Returns:
        path of the results file or the stored detections.

    Raises:
        InputError: if there are none.
    """
    path = path_of(results, "results")
    if os.path.isfile(path) or is_store(path):
        return path
    if not os.path.isdir(path):
        raise InputError(
            f"results {path} doesn't exist; pass a results file, stored detections or the folder of a run."
        )
    found = [str(file) for place in _INFERENCE if (file := Path(path, place, DETECTIONS)).is_file()]
    if not found:
        raise InputError(
            f"{path} has no {INFERENCE}/{DETECTIONS}, where an evaluation writes its detections; evaluate the run "
            "first, or pass a results file. With several datasets in DATASETS.TEST, pass the file of one of them."
        )
    if len(found) > 1:
        raise InputError(f"{path} has several results files; pass one of them: {', '.join(found)}.")
    return found[0]


def is_store(path: str | os.PathLike) -> bool:
    """Whether a folder has stored detections."""
    return all(Path(path, name).is_file() for name in FILES)


def config_of_run(results: str) -> str | None:
    """
    Config of the run that wrote a results file. Other files have none: a config in a folder above may be unrelated.

    Args:
        results: path of the results, from :func:`results_path`.

    Returns:
        path of the config.yaml of the run; None without one.
    """
    file = Path(os.path.abspath(results))
    if file.name != DETECTIONS:
        return None
    run = file.parent.parent if file.parent.name.startswith(INFERENCE) else file.parent
    for folder in (run, run.parent) if run.name == EVALUATION else (run,):
        if (found := folder / CONFIG).is_file():
            return str(found)
    return None


def _check_classes(detections: Detections, path: str, annotations: str) -> None:
    highest, known = int(detections.classes.max(initial=-1)), len(detections.category_ids_of_classes())
    if highest >= known:
        raise InputError(
            f"Stored detections {path} have a class of index {highest:,}, but {annotations} has {known:,} categories; "
            "pass the annotation file of the dataset that they were made for."
        )


def _tasks_of(detections: Detections) -> tuple[str, ...]:
    return tasks_of(detections.has_masks or not len(detections))
