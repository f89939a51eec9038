"""Statistics, tables and plots of methods over several seeds."""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path

import matplotlib
import numpy as np

from ..prediction.lettering import label_text
from .plots import MARKERS, plt
from .published_results import PAPER_COLUMNS, PAPER_TABLE_2
from .tables import TASKS, markdown_table, mean_and_deviation, percent, statistics_of

# Name of the metric in table.json: its place in results.json.
METRICS = {
    "AP": ("segm", "AP"),
    "APf": ("segm", "APf"),
    "APc": ("segm", "APc"),
    "APr": ("segm", "APr"),
    "AP_box": ("bbox", "AP"),
    "AP_box_f": ("bbox", "APf"),
    "AP_box_c": ("bbox", "APc"),
    "AP_box_r": ("bbox", "APr"),
}
# As in the paper: masks, then the AP of boxes.
MASK_COLUMNS = {"AP": "AP mask", "APf": "APf", "APc": "APc", "APr": "APr", "AP_box": "AP box"}
BOX_COLUMNS = {"AP_box": "AP", "AP_box_f": "APf", "AP_box_c": "APc", "AP_box_r": "APr"}
# Upper ends of the plot's bins, in training images; LVIS's groups end at 10 and 100.
BIN_ENDS = (3, 10, 30, 100, 300, math.inf)
_PAIRS = matplotlib.color_sequences["tab20"]  # strong and light colours alternate
COLORS = (*_PAIRS[::2], *_PAIRS[1::2])


def statistics_table(results: dict[str, list[dict]]) -> dict[str, dict[str, dict]]:
    """
    Mean and sample standard deviation over the seeds.

    Args:
        results: {method: ``results.json`` of every seed}.

    Returns:
        {method: {metric: {"mean", "std", "runs"}}} in percent, with the metrics of :data:`METRICS`. ``runs`` has a
        value per seed. A group without categories has None, and so has ``std`` with fewer than two values.
    """
    return {
        method: {
            name: statistics_of([run.get(task, {}).get(metric) for run in runs])
            for name, (task, metric) in METRICS.items()
        }
        for method, runs in results.items()
    }


def seeds_table(table: dict[str, dict[str, dict]], titles: dict[str, str], columns: dict[str, str]) -> str:
    """
    A Markdown table with a row per method and "mean ± std" in every cell.

    Args:
        table: as :func:`statistics_table` returns it.
        titles: {method: name to show}.
        columns: {metric: header of its column}.
    """
    rows = [
        [titles[method], *(mean_and_deviation(found[metric]) for metric in columns)] for method, found in table.items()
    ]
    return markdown_table([["Method", *columns.values()], *rows])


def paper_table(figures: dict[str, tuple]) -> str:
    """One backbone of :data:`balanced_lvis.experiments.published_results.PAPER_TABLE_2` as a Markdown table."""
    header = ["Method", *(MASK_COLUMNS[column] for column in PAPER_COLUMNS)]
    rows = [[name, *map(percent, values)] for name, values in figures.items()]
    return markdown_table([header, *rows])


def comparison_page(table: dict[str, dict[str, dict]], titles: dict[str, str], title: str, made_by: str) -> str:
    """
    ``table.md``: mask AP as in Table 2 of the paper, box AP, the paper's results, and the command that made the page.

    Args:
        table: as :func:`statistics_table` returns it.
        titles: {method: name to show}.
        title: heading of the page.
        made_by: last line.
    """
    parts = [
        f"# {title}\n",
        "Percent, mean ± sample standard deviation over the seeds.\n",
        "## Masks, and AP of boxes\n",
        seeds_table(table, titles, MASK_COLUMNS),
        "## Boxes\n",
        seeds_table(table, titles, BOX_COLUMNS),
        "## For comparison: results of the paper, on LVIS-1.0\n",
        "Not measured here: Table 2 of the slides, Mask R-CNN with FPN on LVIS-1.0, a much larger dataset.\n",
    ]
    for name, figures in PAPER_TABLE_2.items():
        parts += [f"### {name}\n", paper_table(figures)]
    return "\n".join([*parts, f"{made_by}\n"])


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
        hollow: titles of the second-stage methods.
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
    note += "; hollow: second stages" if hollow else ""
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
