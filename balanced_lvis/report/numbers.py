"""The numbers of analyses as the page reads them: short, column by column, null where not defined."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable

from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from ..analysis.error_types import ERROR_TYPES
from ..analysis.model import Analysis, CategoryResult, ConfusedPair, TaskResult
from ..utils.io import nan_to_none

MOST_CONFUSIONS = 5  # of a category, as the detected and as the annotated one
_PERCENT, _SCORE = 2, 4  # digits

# Column of the page: function that reads its value, digits.
_COLUMNS: dict[str, tuple[Callable[[CategoryResult], float], int]] = {
    "ap": (lambda c: c.ap, _PERCENT),
    "ap50": (lambda c: c.ap50, _PERCENT),
    "ap75": (lambda c: c.ap75, _PERCENT),
    "ar": (lambda c: c.ar, _PERCENT),
    "fixed": (lambda c: c.ap_fixed, _PERCENT),
    "boundary": (lambda c: c.ap_boundary, _PERCENT),
    "threshold": (lambda c: c.best_f1.threshold, _SCORE),
    "precision": (lambda c: c.best_f1.precision, _PERCENT),
    "recall": (lambda c: c.best_f1.recall, _PERCENT),
    "f1": (lambda c: c.best_f1.f1, _PERCENT),
    "true": (lambda c: c.best_f1.true, 0),
    "false": (lambda c: c.best_f1.false, 0),
    "lrp": (lambda c: c.lrp.error, _PERCENT),
    "laece": (lambda c: c.laece, _PERCENT),
}


def short(value: float | None, digits: int = _PERCENT) -> float | int | None:
    """A rounded number; None if it is not defined."""
    if value is None or not math.isfinite(value):
        return None
    return round(value, digits) if digits else round(value)


def page_json(content: dict) -> Markup:
    """JSON for a script element: characters that could end it are escaped."""
    return htmlsafe_json_dumps(nan_to_none(content), separators=(",", ":"), allow_nan=False)


def category_rows(analysis: Analysis) -> list[dict]:
    """What does not depend on a run: id, name, group and counts of each category, by rank."""
    result = next(iter(analysis.tasks.values()))
    return [
        {
            "id": category.id,
            "name": category.name,
            "group": category.group,
            "training": category.training_images,
            "objects": category.objects,
            "images": category.images,
            "judged": category.judged_images,
        }
        for category in result.categories
    ]


def task_numbers(result: TaskResult) -> dict:
    """The numbers of one task of one run."""
    ranks = {category.id: rank for rank, category in enumerate(result.categories)}
    return {
        "columns": {
            name: [short(read(category), digits) for category in result.categories]
            for name, (read, digits) in _COLUMNS.items()
        },
        "errors": [[category.errors[kind] for kind in ERROR_TYPES] for category in result.categories],
        "lost": [[short(category.ap_lost[kind]) for kind in ERROR_TYPES] for category in result.categories],
        "lost_by": {
            kind: {pool: short(value) for pool, value in lost.items()} for kind, lost in result.errors.ap_lost.items()
        },
        "counts_by": result.errors.counts,
        "calibration": {
            pool: {
                "ece": short(found.ece),
                "bins": [
                    [row.count, short(row.mean_score, _SCORE), short(row.precision, _SCORE)]
                    for row in found.reliability
                ],
            }
            for pool, found in result.calibration.items()
        },
        "confusion": [
            [ranks[pair.detected], ranks[pair.annotated], pair.count, pair.opportunities]
            for pair in most_frequent(result.confusion)
        ],
    }


def most_frequent(pairs: Iterable[ConfusedPair]) -> list[ConfusedPair]:
    """
    Pairs that are among the :data:`MOST_CONFUSIONS` most frequent ones of the detected or of the annotated category.

    Args:
        pairs: of a task.

    Returns:
        by falling count.
    """
    detected: Counter[int] = Counter()
    annotated: Counter[int] = Counter()
    kept = []
    for pair in sorted(pairs, key=lambda pair: -pair.count):
        if min(detected[pair.detected], annotated[pair.annotated]) < MOST_CONFUSIONS:
            kept.append(pair)
        detected[pair.detected] += 1
        annotated[pair.annotated] += 1
    return kept
