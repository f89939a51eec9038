"""Plots of many methods over several seeds."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from ..drawing.lettering import label_text
from .comparison_report import METRICS, grouped
from .plots import COLORS, MARKERS, plt
from .tables import TASKS, number

# Upper ends of the plot's bins, in training images; LVIS's groups end at 10 and 100.
BIN_ENDS = (3, 10, 30, 100, 300, math.inf)
# Methods of the plot by frequency, which is unreadable with more of them: these, and the best of each group.
MAX_SHOWN = 8
BASELINES = ("sigmoid", "rfs")


def shown_in_bins(table: Mapping[str, dict], groups: Mapping[str, str], metric: str = "AP") -> list[str]:
    """
    The methods to show by frequency: all of them if they are few, else the baselines and, in turn, the best of each
    group.

    Args:
        table: as :func:`.comparison_report.statistics_table` returns it.
        groups: {method: its group}.
        metric: the metric by which methods are best; box AP where there are no masks.
    """
    if len(table) <= MAX_SHOWN:
        return list(table)
    if all(found[metric]["mean"] is None for found in table.values()):
        metric = "AP_box"
    shown = [method for method in BASELINES if method in table]
    ranked = [[key for key in keys if key not in shown] for keys in grouped(table, groups, metric).values()]
    while len(shown) < MAX_SHOWN:
        for keys in ranked:
            if keys and len(shown) < MAX_SHOWN:
                shown.append(keys.pop(0))
    return [method for method in table if method in shown]


def frequency_bins(image_counts) -> list[tuple[str, np.ndarray]]:
    """
    Group categories by their number of training images.

    Args:
        image_counts: (K,) number of training images of each category.

    Returns:
        (label, (K,) bool) of each bin of :data:`BIN_ENDS` that contains categories, from rare to frequent.
    """
    counts = np.asarray(image_counts)
    bins = []
    starts = (0, *BIN_ENDS[:-1])
    for start, end in zip(starts, BIN_ENDS):
        inside = (counts > start) & (counts <= end)
        if inside.any():
            bins.append((f">{start}" if math.isinf(end) else f"{start + 1}–{end}", inside))
    return bins


def binned_ap(rows: list[dict], task: str) -> dict[str, tuple[float, int]]:
    """
    Mean AP of the categories in each frequency bin.

    Args:
        rows: ``per_category_ap.json`` of a run.
        task: "bbox" or "segm".

    Returns:
        {label of the bin: (AP in percent, number of categories)}; categories without training images or ground truth
        are left out.
    """
    known = [row for row in rows if row.get(task) is not None]
    values = np.array([row[task] for row in known])
    bins = frequency_bins([row["image_count"] for row in known])
    return {label: (values[inside].mean(), int(inside.sum())) for label, inside in bins}


def plot_ap_by_bin(
    per_category: dict[str, list[list[dict]]], path: Path, task: str, hollow: Collection[str] = ()
) -> None:
    """
    Plot the AP of each method in each frequency bin: mean over its categories, then mean and std over the seeds.

    Args:
        per_category: {title of the method: ``per_category_ap.json`` of every seed}.
        path: image file to write.
        task: "bbox" or "segm".
        hollow: titles of the methods that start from the model of another one.
    """
    binned = {title: [binned_ap(rows, task) for rows in runs] for title, runs in per_category.items()}
    sizes = {label: size for runs in binned.values() for run in runs for label, (_, size) in run.items()}
    labels = [label for label in _all_labels() if label in sizes]
    figure, axes = plt.subplots(figsize=(10, 6), layout="constrained")
    axes.grid(axis="y", color="0.92")
    for x in np.arange(len(labels) - 1) + 0.5:
        axes.axvline(x, color="0.8", linewidth=1, zorder=0)
    for index, (title, runs) in enumerate(binned.items()):
        _draw_method(axes, index, len(binned), title, runs, labels, title in hollow)
    axes.set_xticks(range(len(labels)), [f"{label}\n({sizes[label]} cat.)" for label in labels])
    axes.set_xlim(-0.5, len(labels) - 0.5)
    low, high = axes.get_ylim()
    axes.set_ylim(bottom=min(low, -0.02 * high))  # includes 0, with the markers there fully visible
    axes.set(xlabel="training images of the category (number of such categories)", ylabel=f"{TASKS[task]} AP")
    seeds = max(len(runs) for runs in binned.values())
    note = f"mean ± standard deviation of {seeds} seeds" if seeds > 1 else "one seed"
    note += "; hollow: second stages and test time" if hollow else ""
    figure.legend(loc="outside lower center", ncols=3, frameon=False, title=note)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _all_labels() -> list[str]:
    return [label for label, _ in frequency_bins([min(end, 10**9) for end in BIN_ENDS])]


def _draw_method(axes, index, methods, title, runs, labels, hollow) -> None:
    """One point per bin; methods are shifted sideways, so that their error bars don't overlap."""
    values = np.array([[run.get(label, (math.nan,))[0] for label in labels] for run in runs])
    x = np.arange(len(labels)) + (index - (methods - 1) / 2) * 0.8 / methods
    color = COLORS[index % len(COLORS)]
    axes.errorbar(
        x,
        values.mean(axis=0),
        yerr=values.std(axis=0, ddof=1) if len(runs) > 1 else None,
        color=color,
        fmt=MARKERS[index % len(MARKERS)],
        markersize=6,
        markerfacecolor="white" if hollow else color,
        markeredgewidth=1.3,
        elinewidth=1.2,
        label=label_text(title),
    )


def plot_rare_ap(
    table: Mapping[str, dict], titles: Mapping[str, str], groups: Mapping[str, str], path: Path, task: str
) -> None:
    """
    Plot the AP of rare categories of each method against its AP of all, with the standard deviations over the seeds.

    Methods are numbered, and their legend is next to the plot.

    Args:
        table: as :func:`.comparison_report.statistics_table` returns it.
        titles: {method: name to show}.
        groups: {method: its group}, each with its colour and symbol.
        path: image file to write.
        task: "bbox" or "segm".
    """
    overall, rare = (next(key for key, found in METRICS.items() if found == (task, ap)) for ap in ("AP", "APr"))
    order = grouped(table, groups, rare)
    numbers = {key: index for index, key in enumerate((key for keys in order.values() for key in keys), start=1)}
    figure, axes = plt.subplots(figsize=(11, max(6.0, 0.19 * (len(numbers) + 2 * len(order)))), layout="constrained")
    axes.grid(color="0.92")
    points: dict[str, tuple[float, float]] = {}
    handles: list = []
    for index, (group, keys) in enumerate(order.items()):
        color, marker = f"C{index}", MARKERS[index % len(MARKERS)]
        handles += axes.plot([], [], " ", label=f"$\\bf{{{group.capitalize().replace(' ', '~')}}}$")
        for key in keys:
            x, y = (number(table[key][metric]["mean"]) for metric in (overall, rare))
            dx, dy = (table[key][metric]["std"] for metric in (overall, rare))
            axes.errorbar(x, y, xerr=dx, yerr=dy, fmt="none", color=color, elinewidth=0.8, alpha=0.5)
            label = f"{numbers[key]}  {label_text(titles[key])}"
            handles += axes.plot(x, y, marker, color=color, markersize=5, label=label)
            if not math.isnan(x + y):
                points[key] = (x, y)
    axes.set(xlabel=f"{TASKS[task]} AP", ylabel=f"{TASKS[task]} AP of rare categories")
    seeds = max((len(found[overall]["runs"]) for found in table.values()), default=1)
    note = f"mean ± standard deviation of {seeds} seeds" if seeds > 1 else "one seed"
    figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=8, title=note, title_fontsize=9)
    figure.draw_without_rendering()  # fixes the layout that the numbers are placed in
    figure.set_layout_engine("none")
    _number_points(axes, list(points.values()), [str(numbers[key]) for key in points])
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _number_points(axes, points: Sequence[tuple[float, float]], labels: Sequence[str]) -> None:
    """Write each label next to its point, where it overlaps neither points nor other labels."""
    scale = axes.figure.dpi / 72
    centres = [axes.transData.transform(point) for point in points]
    taken = [_box(x, y, 4 * scale, 4 * scale) for x, y in centres]
    for (x, y), point, label in zip(centres, points, labels):
        half = (0.5 + 2.6 * len(label)) * scale, 4.2 * scale
        boxes = [(dx, dy, _box(x + dx * scale, y + dy * scale, *half)) for dx, dy in _OFFSETS]
        dx, dy, box = min(boxes, key=lambda found: sum(_overlap(found[2], other) for other in taken))
        taken.append(box)
        line = {"arrowstyle": "-", "color": "0.5", "linewidth": 0.5, "shrinkA": 0, "shrinkB": 2}
        axes.annotate(
            label, point, (dx, dy), textcoords="offset points", ha="center", va="center", fontsize=8,
            arrowprops=line if math.hypot(dx, dy) > 14 else None,
        )  # fmt: skip


# In points, from near to far: the first of those that overlap least is used.
_OFFSETS = [
    (radius * math.cos(angle), radius * math.sin(angle))
    for radius in (9, 13, 18, 24, 31, 40)
    for angle in np.arange(16) * math.pi / 8 + math.pi / 4
]


def _box(x: float, y: float, half_width: float, half_height: float) -> tuple[float, float, float, float]:
    return x - half_width, y - half_height, x + half_width, y + half_height


def _overlap(one, other) -> float:
    """Common area of two boxes."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, width) * max(0.0, height)
