"""The summary of an analysis on the terminal."""

from __future__ import annotations

import math

from tabulate import tabulate

from .model import Analysis, Interval, TaskResult

TASK_NAMES = {"bbox": "Boxes", "segm": "Masks"}
GROUP_NAMES = {"all": "all", "r": "rare", "c": "common", "f": "frequent"}
SHOWN = 5


def summary(analysis: Analysis) -> str:
    """A short text: AP, errors, confusions and calibration of each task."""
    source = analysis.source
    lines = [f"{source.detections:,} detections in {source.images:,} images; groups are defined by {source.groups}"]
    for task, result in analysis.tasks.items():
        lines += ["", f"{TASK_NAMES[task]}, in percent", *_task(result)]
    return "\n".join([*lines, *_hints(analysis)])


def _task(result: TaskResult) -> list[str]:
    blocks = [_ap_table(result), _error_table(result), _calibration_table(result)]
    if costly := [pair for pair in result.confusion if pair.ap_lost > 0][:SHOWN]:
        names = {category.id: category.name for category in result.categories}
        rows = [
            (names[pair.annotated], names[pair.detected], pair.count, pair.opportunities, _number(pair.ap_lost, 3))
            for pair in costly
        ]
        blocks.append(_table(rows, ["confused: object of", "detected as", "times", "objects", "AP50 lost"]))
    return [line for block in blocks for line in (*block.splitlines(), "")][:-1]


def _ap_table(result: TaskResult) -> str:
    rows = []
    ends = ("", "r", "c", "f", "50", "75", "s", "m", "l")
    for name, metrics in (("AP", result.metrics), ("AP-fixed", result.fixed.metrics), ("boundary AP", result.boundary)):
        if metrics:
            rows.append([name, *(_number(metrics[f"AP{end}"]) for end in ends)])
    rows.append(["AP-pool", *(_number(result.fixed.pooled[group]) for group in ("all", "r", "c", "f"))])
    if result.bootstrap:
        intervals = map(interval_text, result.bootstrap.metrics.values())
        rows.insert(1, [f"  {100 * result.bootstrap.level:g}% interval", *intervals])
    return _table(rows, ["", "all", "rare", "common", "frequent", "AP50", "AP75", "small", "medium", "large"])


def _error_table(result: TaskResult) -> str:
    groups = ("all", "r", "c", "f", "small", "medium", "large")
    rows = [
        [name, *(_number(lost[group]) for group in groups), f"{result.errors.counts[name]['all']:,}"]
        for name, lost in result.errors.ap_lost.items()
    ]
    return _table(rows, ["AP50 lost by", *(GROUP_NAMES.get(group, group) for group in groups), "errors"])


def _calibration_table(result: TaskResult) -> str:
    columns = {"ECE": "ece", "LaECE": "laece"}
    rows = [
        [name, *(_number(getattr(group, attribute)) for group in result.calibration.values())]
        for name, attribute in columns.items()
    ]
    rows.append(["LRP error", *(_number(group.lrp.error) for group in result.calibration.values())])
    return _table(rows, ["", *(GROUP_NAMES[group] for group in result.calibration)])


def _hints(analysis: Analysis) -> list[str]:
    result = next(iter(analysis.tasks.values()), None)
    if result is None or not result.fixed.categories_below_limit:
        return []
    fixed, most = result.fixed, analysis.source.most_per_image
    return [
        "",
        f"AP-fixed may be higher with more detections: {fixed.categories_below_limit:,} categories have fewer than "
        f"{fixed.detections_per_category:,}, and images have at most {most:,}.",
    ]


def comparison_text(differences: dict[str, dict[str, Interval]], level: float) -> str:
    """
    Args:
        differences: by task and metric, the first result minus the second.
        level: share of the resamples in an interval.
    """
    rows = [
        [TASK_NAMES[task], *(f"{_signed(value.value)} {interval_text(value)}" for value in metrics.values())]
        for task, metrics in differences.items()
    ]
    names = next(iter(differences.values()), {})
    return _table(rows, [f"difference, {100 * level:g}%", *names])


def interval_text(interval: Interval) -> str:
    """The ends of an interval."""
    return f"[{_number(interval.low)}, {_number(interval.high)}]"


def _table(rows: list, headers: list[str]) -> str:
    align = ["left" if isinstance(value, str) and not _is_number(value) else "right" for value in rows[0]]
    return tabulate(rows, headers, tablefmt="plain", colalign=align, disable_numparse=True)


def _is_number(text: str) -> bool:
    return text[:1] in ("[", "-", "+") or text[:1].isdigit() or text == "–"


def _number(value: float, digits: int = 2) -> str:
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


def _signed(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:+.2f}"
