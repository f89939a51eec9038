"""Table and plots of the quick start: two or more methods, one run each."""

from __future__ import annotations

import numpy as np

from ..prediction.lettering import label_text
from ..priors import COMMON_MAX_IMAGES, RARE_MAX_IMAGES
from .plots import MARKERS, plt
from .tables import TASKS, markdown_table, number, percent

COLUMNS = ("AP", "APr", "APc", "APf")


def comparison_table(results: dict[str, dict[str, dict[str, float]]], columns=COLUMNS) -> str:
    """
    A Markdown table with a row per method and, for exactly two methods, a row for the second minus the first.

    Args:
        results: {method: {"bbox": {metric: percent}, "segm": {...}}}; None or NaN for missing values. A model without
            masks has no "segm".
        columns: metrics to show for each task.
    """
    keys = [(task, column) for task in TASKS for column in columns]
    rows = [["method", *(f"{TASKS[task]} {column}" for task, column in keys)]]
    values = {
        method: [number(found.get(task, {}).get(column)) for task, column in keys] for method, found in results.items()
    }
    for method, row in values.items():
        rows.append([method, *map(percent, row)])
    if len(values) == 2:
        first, second = values.values()
        rows.append(["difference", *(percent(b - a, sign=True) for a, b in zip(first, second))])
    return markdown_table(rows)


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
