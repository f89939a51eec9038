"""Table and plots of the quick start: two or more methods, one or more seeds."""

from __future__ import annotations

import math
import statistics

import numpy as np

from ..drawing.lettering import label_text
from ..priors import COMMON_MAX_IMAGES, RARE_MAX_IMAGES
from .plots import MARKERS, plt
from .tables import TASKS, markdown_table, mean_and_deviation, number, percent, statistics_of

COLUMNS = ("AP", "APr", "APc", "APf")


def seed_statistics(results: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, dict]]:
    """
    Mean and sample standard deviation of each metric over the seeds.

    Args:
        results: ``results.json`` of each seed: {"bbox": {metric: percent}, "segm": {...}}.

    Returns:
        {task: {metric: {"mean", "std", "runs"}}}; as :func:`.tables.statistics_of` returns it.
    """
    tasks = {task: list(dict.fromkeys(m for run in results for m in run.get(task, {}))) for task in TASKS}
    return {
        task: {metric: statistics_of([run.get(task, {}).get(metric) for run in results]) for metric in metrics}
        for task, metrics in tasks.items()
        if metrics
    }


def comparison_table(results: dict[str, list[dict[str, dict[str, float]]]], columns=COLUMNS) -> str:
    """
    A Markdown table with a row per method: the mean and, with several seeds, ± the sample standard deviation.

    For exactly two methods, there is a row with the mean difference of the second from the first, and, with several
    seeds, the number of seeds with which the second is ahead.

    Args:
        results: {method: ``results.json`` of each seed}, with the same seeds for all; None or NaN for missing values.
            A model without masks has no "segm".
        columns: metrics to show for each task.
    """
    keys = [(task, column) for task in TASKS for column in columns]
    rows = [["method", *(f"{TASKS[task]} {column}" for task, column in keys)]]
    values = {method: [_values(found, *key) for key in keys] for method, found in results.items()}
    for method, cells in values.items():
        rows.append([method, *(mean_and_deviation(statistics_of(runs)) for runs in cells)])
    if len(values) == 2:
        differences = [[b - a for a, b in zip(*pair)] for pair in zip(*values.values())]
        rows.append(["difference", *(percent(statistics_of(runs)["mean"], sign=True) for runs in differences)])
        if len(differences[0]) > 1:
            rows.append(["seeds ahead", *map(_ahead, differences)])
    return markdown_table(rows)


def _values(results: list[dict], task: str, metric: str) -> list[float]:
    return [number(found.get(task, {}).get(metric)) for found in results]


def _ahead(differences: list[float]) -> str:
    known = [value for value in differences if not math.isnan(value)]
    return f"{sum(value > 0 for value in known)} of {len(known)}" if known else percent(None)


def mean_per_category(runs: list[list[dict]]) -> list[dict]:
    """
    The AP of each category, averaged over the seeds.

    Args:
        runs: ``per_category_ap.json`` of each seed, with the same categories.

    Returns:
        rows as of one seed. A category that a seed has no AP for has None.
    """
    rows = []
    for same in zip(*runs):
        row = dict(same[0])
        for task in TASKS.keys() & row.keys():
            values = [one[task] for one in same]
            row[task] = None if None in values else statistics.fmean(values)
        rows.append(row)
    return rows


def plot_ap_by_frequency(per_category: dict[str, list[dict]], path, task: str = "segm") -> None:
    """
    Plot the AP of each category against its number of training images, with the mean of each group.

    Args:
        per_category: {method: rows of ``per_category_ap.json``}.
        path: image file to write.
        task: "bbox" or "segm".
    """
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    edges = (RARE_MAX_IMAGES + 0.5, COMMON_MAX_IMAGES + 0.5)
    for edge in edges:
        axes.axvline(edge, color="0.75", linewidth=1, zorder=0)
    for index, (method, rows) in enumerate(per_category.items()):
        known = [(row["image_count"], row[task], row["frequency"]) for row in rows if row.get(task) is not None]
        counts = np.array([max(count, 0.5) for count, _, _ in known])
        values = np.array([value for _, value, _ in known])
        color = f"C{index}"
        axes.scatter(
            counts,
            values,
            s=22,
            alpha=0.6,
            facecolors="none",
            edgecolors=color,
            marker=MARKERS[index % len(MARKERS)],
            label=label_text(method),
        )
        for group in "rcf":
            inside = np.array([frequency == group for _, _, frequency in known])
            if inside.any():
                span = counts[inside].min(), counts[inside].max()
                axes.hlines(values[inside].mean(), *span, color=color, linewidth=2.5)
    axes.set_xscale("log")
    axes.set(xlabel="training images of the category", ylabel=f"{TASKS[task]} AP")
    top = axes.get_ylim()[1]
    for x, name in zip((axes.get_xlim()[0], *edges), ("rare", "common", "frequent")):
        axes.text(x * 1.08, top, name, va="bottom", color="0.4")
    axes.xaxis.set_major_formatter("{x:g}")
    title = "symbol: category, line: mean of the group"
    figure.legend(loc="outside lower center", ncols=3, frameon=False, title=title)
    figure.savefig(path, dpi=130)
    plt.close(figure)
