"""The summary of an analysis on the terminal."""

from __future__ import annotations

import math
from collections.abc import Callable

from tabulate import tabulate

from .model import Analysis, ComparedMetric, Comparison, Interval, TaskResult
from .sources import TASK_NAMES

GROUP_NAMES = {"all": "all", "r": "rare", "c": "common", "f": "frequent"}
SHOWN = 5
NAME_WIDTH = 20
# An image with fewer detections than this is unlikely to have reached a limit per image.
LOWEST_LIMIT = 100


def summary(analysis: Analysis) -> str:
    """A short text: AP, errors, confusions and calibration of each task."""
    source = analysis.source
    lines = [
        f"results:     {source.results}",
        f"annotations: {source.annotations}",
        f"{source.detections:,} detections in {source.images:,} images",
        f"groups are defined by {source.groups}",
    ]
    for task, result in analysis.tasks.items():
        lines += ["", f"{TASK_NAMES[task]}, in percent", *_task(result)]
    return "\n".join([*lines, *_hints(analysis)])


def _task(result: TaskResult) -> list[str]:
    blocks = [_group_table(result), _size_table(result), _error_table(result), _calibration_table(result)]
    if costly := [pair for pair in result.confusion if pair.ap_lost > 0][:SHOWN]:
        names = {category.id: category.name for category in result.categories}
        rows = [
            (
                _short(names[pair.annotated]),
                _short(names[pair.detected]),
                pair.count,
                pair.opportunities,
                _number(pair.rate, 1),
                _number(pair.ap_lost, 3),
            )
            for pair in costly
        ]
        blocks.append(_table(rows, ["confused: object of", "detected as", "times", "objects", "rate", "AP50 lost"]))
    return [line for block in blocks for line in (*block.splitlines(), "")][:-1]


def _group_table(result: TaskResult) -> str:
    rows = _metric_rows(result, ("", "r", "c", "f"))
    rows.append(["AP-pool", *(_number(result.fixed.pooled[group]) for group in GROUP_NAMES)])
    if result.bootstrap:
        intervals = map(interval_text, result.bootstrap.metrics.values())
        rows.insert(1, [_level(result.bootstrap.level), *intervals])
    return _table(rows, ["", *GROUP_NAMES.values()])


def _size_table(result: TaskResult) -> str:
    rows = _metric_rows(result, ("50", "75", "s", "m", "l"))
    return _table(rows, ["", "AP50", "AP75", "small", "medium", "large"])


def _metric_rows(result: TaskResult, ends: tuple[str, ...]) -> list[list[str]]:
    kinds = (("AP", result.metrics), ("AP-fixed", result.fixed.metrics), ("boundary AP", result.boundary))
    return [[name, *(_number(metrics[f"AP{end}"]) for end in ends)] for name, metrics in kinds if metrics]


def _error_table(result: TaskResult) -> str:
    groups = ("all", "r", "c", "f", "small", "medium", "large")
    rows = [
        [name, *(_number(lost[group]) for group in groups), f"{result.errors.counts[name]['all']:,}"]
        for name, lost in result.errors.ap_lost.items()
    ]
    return _table(rows, ["AP50 lost by", *(GROUP_NAMES.get(group, group) for group in groups), "errors"])


def _calibration_table(result: TaskResult) -> str:
    columns = {"ECE": "ece", "LaECE": "laece", "LaECE, all scores": "laece_all"}
    rows = [
        [name, *(_number(getattr(group, attribute)) for group in result.calibration.values())]
        for name, attribute in columns.items()
    ]
    rows.append(["LRP error", *(_number(group.lrp.error) for group in result.calibration.values())])
    return _table(rows, ["", *(GROUP_NAMES[group] for group in result.calibration)])


def _hints(analysis: Analysis) -> list[str]:
    """More detections can raise AP-fixed only where a limit per image left some out: several images then have most."""
    result, source = next(iter(analysis.tasks.values()), None), analysis.source
    if result is None or not result.fixed.categories_below_limit:
        return []
    if source.images_with_most < 2 or source.most_per_image < LOWEST_LIMIT:
        return []
    fixed = result.fixed
    return [
        "",
        f"{source.images_with_most:,} images reach the highest number of detections, {source.most_per_image:,}. "
        "AP-fixed may be",
        f"higher with more: {fixed.categories_below_limit:,} categories with objects have fewer than "
        f"{fixed.detections_per_category:,}.",
    ]


def comparison_text(comparison: Comparison) -> str:
    """The results A and B, and the difference A - B, of each task."""
    lines = [f"A: {comparison.first.results}", f"B: {comparison.second.results}"]
    for task, metrics in comparison.tasks.items():
        lines += ["", f"{TASK_NAMES[task]}, in percent", _comparison_table(metrics, _level(comparison.level))]
    return "\n".join(lines)


def _comparison_table(metrics: dict[str, ComparedMetric], level: str) -> str:
    rows = []
    parts = (("A", "first", _number), ("B", "second", _number), ("A − B", "difference", _signed))
    for name, part, number in parts:
        intervals = [getattr(metric, part) for metric in metrics.values()]
        rows.append([name, *(number(interval.value) for interval in intervals)])
        rows.append([level, *(interval_text(interval, number) for interval in intervals)])
    return _table(rows, ["", *metrics])


def _level(level: float) -> str:
    return f"{100 * level:g}%"


def _short(name: str) -> str:
    return name if len(name) <= NAME_WIDTH else f"{name[: NAME_WIDTH - 1]}…"


def interval_text(interval: Interval, number: Callable[[float], str] | None = None) -> str:
    """The ends of an interval, as ``number`` writes them."""
    number = number or _number
    return f"[{number(interval.low)}, {number(interval.high)}]"


def _table(rows: list, headers: list[str]) -> str:
    align = ["left" if isinstance(value, str) and not _is_number(value) else "right" for value in rows[0]]
    # As a row: tabulate makes columns two characters wider than a header.
    return tabulate([headers, *rows], tablefmt="plain", colalign=align, disable_numparse=True)


def _is_number(text: str) -> bool:
    return text[:1] in ("[", "-", "+") or text[:1].isdigit() or text == "–"


def _number(value: float, digits: int = 2) -> str:
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


def _signed(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:+.2f}"
