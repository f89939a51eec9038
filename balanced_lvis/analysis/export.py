"""Files of an analysis."""

from __future__ import annotations

import csv
import dataclasses
import math
import os
from pathlib import Path

import numpy as np

from ..evaluation.lvis_api import IOU_TYPES
from ..utils.io import replacing, write_json
from ..utils.text import one_line
from .analyze import BOOTSTRAPPED, Matches
from .error_types import AT_50, ERROR_TYPES
from .matching import ALL_AREAS
from .model import Analysis, CategoryResult, ConfusedPair

ANALYSIS_FILE = "analysis.json"
COMPARISON_FILE = "comparison.json"
# The thresholds of the masks, or of boxes if there are no masks, are in THRESHOLDS_FILE.
THRESHOLDS_FILE = "thresholds.json"
THRESHOLD_KINDS = ("best_f1", "lrp")
# Names of the files of a task.
_CATEGORIES_FILE, _CONFUSION_FILE, _MATCHES_FILE = "per_category_{}.csv", "confusion_{}.csv", "matches_{}.npz"
_BOOTSTRAP_FILE = "bootstrap_{}.npz"


def bootstrap_file(task: str) -> str:
    """Name of the file with AP of each resample."""
    return _BOOTSTRAP_FILE.format(task)


def _thresholds_file(kind: str) -> str:
    return THRESHOLDS_FILE if kind == THRESHOLD_KINDS[0] else f"thresholds_{kind}.json"


def write_files(analysis: Analysis, matches: dict[str, Matches], folder: str | os.PathLike) -> list[Path]:
    """
    Write all files of an analysis; docs/analysis.md describes them.

    All files of an earlier analysis are removed first, and ``analysis.json`` is written last: where it exists, the
    other files belong to it.

    Args:
        analysis, matches: from :func:`~balanced_lvis.analysis.analyze.analyze_detections`.
        folder: path of the folder, created if needed.

    Returns:
        paths of the files.
    """
    folder = Path(folder)
    written = [folder / ANALYSIS_FILE]
    _remove_files(folder)
    for task, result in analysis.tasks.items():
        written.append(folder / _CATEGORIES_FILE.format(task))
        write_categories(written[-1], result.categories)
        written.append(folder / _CONFUSION_FILE.format(task))
        names = {category.id: category.name for category in result.categories}
        rows = [
            {"detected_name": names[pair.detected], "annotated_name": names[pair.annotated], **dataclasses.asdict(pair)}
            for pair in result.confusion
        ]
        _write_csv(written[-1], rows, ["detected_name", "annotated_name", *_fields(ConfusedPair)])
        written.append(folder / _MATCHES_FILE.format(task))
        write_matches(written[-1], matches[task])
        if result.bootstrap:
            written.append(folder / bootstrap_file(task))
            _write_arrays(written[-1], dict(zip(BOOTSTRAPPED, matches[task].resamples.T)))
    for kind in THRESHOLD_KINDS:
        written.append(folder / _thresholds_file(kind))
        write_json(written[-1], thresholds_of(analysis, kind), indent=1)
    analysis.save(written[0])
    return written


def _remove_files(folder: Path) -> None:
    """Remove the files of an earlier analysis or comparison, which may have had other tasks, and resamples."""
    of_tasks = (_CATEGORIES_FILE, _CONFUSION_FILE, _MATCHES_FILE, _BOOTSTRAP_FILE)
    names = [ANALYSIS_FILE, COMPARISON_FILE, *map(_thresholds_file, THRESHOLD_KINDS)]
    for name in (*names, *(name.format(task) for name in of_tasks for task in IOU_TYPES)):
        (folder / name).unlink(missing_ok=True)


def thresholds_of(analysis: Analysis, kind: str = "best_f1", task: str | None = None) -> list[dict]:
    """
    Score thresholds of all categories, for ``predict --thresholds``.

    Args:
        kind: "best_f1" or "lrp".
        task: "bbox" or "segm"; None for masks if they were analysed.

    Returns:
        one {"name", "threshold"} per category, in the order of the classes of a model; None for a category without
        a threshold.
    """
    result = analysis.tasks[task or ("segm" if "segm" in analysis.tasks else "bbox")]
    rows = []
    for category in result.categories:
        value = getattr(category, kind).threshold
        rows.append({"name": category.name, "threshold": None if math.isnan(value) else value})
    return rows


def write_categories(path: str | os.PathLike, categories: list[CategoryResult]) -> None:
    """Write one row per category; nested numbers are columns such as ``best_f1_threshold``."""
    rows = [_flat(dataclasses.asdict(category)) for category in categories]
    _write_csv(path, rows, list(rows[0]) if rows else _fields(CategoryResult))


def _flat(content: dict, prefix: str = "") -> dict:
    flat: dict = {}
    for key, value in content.items():
        name = f"{prefix}{key}"
        flat.update(_flat(value, f"{name}_") if isinstance(value, dict) else {name: value})
    return flat


def _fields(kind: type) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


def _write_csv(path: str | os.PathLike, rows: list[dict], columns: list[str]) -> None:
    """NaN and None become empty. Texts are those of :func:`~balanced_lvis.utils.text.one_line`."""

    def cell(value):
        if isinstance(value, str):
            return one_line(value)
        return "" if value is None or value != value else value

    with replacing(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for row in rows:
            writer.writerow(cell(row[column]) for column in columns)


def write_matches(path: str | os.PathLike, matches: Matches) -> None:
    """Write what became of each detection and object at an IoU threshold of 0.5, as NumPy arrays."""
    table, errors = matches.table, matches.errors
    ids = np.append(table.objects.ids, -1)
    _write_arrays(
        path,
        {
            "error_types": np.array(ERROR_TYPES),
            "row": table.rows,
            "image_id": table.truth.image_ids[table.images],
            "category_id": table.truth.category_ids[table.categories],
            "score": table.scores,
            "area": table.areas,
            "status": table.status[AT_50, ALL_AREAS],
            "matched_id": ids[table.matched_objects(AT_50)],
            "matched_iou": table.matched_ious(AT_50),
            "error": errors.types.astype(np.int8),
            "error_id": ids[errors.objects],
            "annotation_id": table.objects.ids,
            "annotation_image_id": table.truth.image_ids[table.objects.images],
            "annotation_category_id": table.truth.category_ids[table.objects.categories],
            "annotation_missed": errors.missed,
        },
    )


def _write_arrays(path: str | os.PathLike, arrays: dict[str, np.ndarray]) -> None:
    with replacing(path, "wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
