"""Markdown tables and plots that compare the results of methods."""

from __future__ import annotations

import math

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from ..prediction.lettering import label_text
from ..priors import COMMON_MAX_IMAGES, RARE_MAX_IMAGES
from ..utils.text import one_line

COLUMNS = ("AP", "APr", "APc", "APf")
TASKS = {"bbox": "box", "segm": "mask"}
MARKERS = "os^Dv"


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
        method: [_number(found.get(task, {}).get(column)) for task, column in keys] for method, found in results.items()
    }
    for method, row in values.items():
        rows.append([method, *map(percent, row)])
    if len(values) == 2:
        first, second = values.values()
        rows.append(["difference", *(percent(b - a, sign=True) for a, b in zip(first, second))])
    return markdown_table(rows)


def markdown_table(rows: list[list[str]]) -> str:
    """An aligned Markdown table: the first row is the header, the first column is left-aligned."""
    rows = [[one_line(cell).replace("|", "\\|") for cell in row] for row in rows]
    rows = [rows[0], ["---", *("---:" for _ in rows[0][1:])], *rows[1:]]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(_line(row, widths, fill="-" if i == 1 else " ") for i, row in enumerate(rows)) + "\n"


def _number(value) -> float:
    return math.nan if value is None else float(value)


def percent(value: float | None, sign: bool = False) -> str:
    """A value with one decimal; a dash for None and NaN."""
    value = _number(value)
    return "–" if math.isnan(value) else f"{value:{'+' if sign else ''}.1f}"


def _line(cells, widths, fill):
    first, *rest = (cell.rjust(width, fill) for cell, width in zip(cells, widths))
    return "| " + " | ".join([cells[0].ljust(len(first), fill), *rest]) + " |"


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
