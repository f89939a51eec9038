"""Statistics and tables of methods over several seeds."""

from __future__ import annotations

from collections.abc import Mapping

from ..utils.text import printable
from .methods import GROUPS
from .published_results import PAPER_COLUMNS, PAPER_TABLE_2
from .tables import markdown_table, mean_and_deviation, number, or_lowest, percent, statistics_of

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
DIFFERENCE_COLUMNS = {"AP": "AP mask", "APr": "APr mask", "AP_box": "AP box", "AP_box_r": "APr box"}


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


def add_differences(table: dict[str, dict[str, dict]], reference: str) -> dict[str, dict[str, dict]]:
    """
    Add the paired differences from a method: those of runs with the same seed.

    They scatter less than the results where a seed is good or bad for all methods.

    Args:
        table: as :func:`statistics_table` returns it, with the same seeds for all methods.
        reference: the method to compare with; without it in the table, nothing is added.

    Returns:
        the table, where each metric of each other method also has "difference": {"mean", "std", "runs", "ahead"} in
        points. "ahead" is the number of seeds with which the method is ahead.
    """
    if reference not in table:
        return table
    return {
        method: found if method == reference else {m: _with_difference(found[m], table[reference][m]) for m in found}
        for method, found in table.items()
    }


def _with_difference(found: dict, reference: dict) -> dict:
    runs = [number(one) - number(other) for one, other in zip(found["runs"], reference["runs"])]
    return {**found, "difference": {**statistics_of(runs), "ahead": sum(value > 0 for value in runs)}}


def grouped(table: Mapping[str, dict], groups: Mapping[str, str], metric: str) -> dict[str, list[str]]:
    """
    The methods of each group, in the order of :data:`.methods.GROUPS`, the best first.

    Args:
        table: as :func:`statistics_table` returns it.
        groups: {method: its group}.
        metric: the metric to sort by. Equal methods stay in the order of the table, those without a value are last.
    """
    found = {
        group: sorted(
            (method for method in table if groups[method] == group),
            key=lambda method: -or_lowest(table[method][metric]["mean"]),
        )
        for group in GROUPS
    }
    return {group: methods for group, methods in found.items() if methods}


def seeds_table(
    table: dict[str, dict[str, dict]], titles: dict[str, str], groups: dict[str, str], columns: dict[str, str]
) -> str:
    """
    A Markdown table with a row per method and "mean ± std" in every cell.

    The rows of a group are below its name, sorted by the first column.

    Args:
        table: as :func:`statistics_table` returns it.
        titles: {method: name to show}.
        groups: {method: its group}.
        columns: {metric: header of its column}.
    """
    return _grouped_table(table, titles, groups, columns, mean_and_deviation)


def difference_table(
    table: dict[str, dict[str, dict]], titles: dict[str, str], groups: dict[str, str], columns: dict[str, str]
) -> str:
    """
    As :func:`seeds_table`, with the paired differences of :func:`add_differences` and the number of seeds ahead.

    Methods without differences are left out.
    """
    differences = {
        method: {metric: found[metric]["difference"] for metric in columns}
        for method, found in table.items()
        if all("difference" in found[metric] for metric in columns)
    }
    return _grouped_table(differences, titles, groups, columns, _difference)


def _difference(found: dict) -> str:
    known = sum(value is not None for value in found["runs"])
    ahead = f" ({found['ahead']}/{known})" if known > 1 else ""
    return mean_and_deviation(found, sign=True) + ahead


def _grouped_table(table, titles, groups, columns, cell) -> str:
    rows = []
    in_groups = grouped(table, groups, next(iter(columns)))
    for group, methods in in_groups.items():
        if len(in_groups) > 1:
            rows.append([f"**{group.capitalize()}**", *("" for _ in columns)])
        rows += [[titles[method], *(cell(table[method][metric]) for metric in columns)] for method in methods]
    return markdown_table([["Method", *columns.values()], *rows])


def paper_table(figures: dict[str, tuple]) -> str:
    """One backbone of :data:`balanced_lvis.experiments.published_results.PAPER_TABLE_2` as a Markdown table."""
    header = ["Method", *(MASK_COLUMNS[column] for column in PAPER_COLUMNS)]
    rows = [[name, *map(percent, values)] for name, values in figures.items()]
    return markdown_table([header, *rows])


def comparison_page(
    table: dict[str, dict[str, dict]], titles: dict[str, str], groups: dict[str, str], title: str, made_by: str
) -> str:
    """
    ``table.md``: mask AP as in Table 2 of the paper, box AP, the differences from the reference, the paper's results,
    and the command that made the page.

    Args:
        table: as :func:`add_differences` returns it.
        titles: {method: name to show}.
        groups: {method: its group}.
        title: heading of the page.
        made_by: last line.
    """
    parts = [
        f"# {title}\n",
        "Percent, mean ± sample standard deviation over the seeds. Each group is sorted by the first column.\n",
        "## Masks, and AP of boxes\n",
        seeds_table(table, titles, groups, MASK_COLUMNS),
        "## Boxes\n",
        seeds_table(table, titles, groups, BOX_COLUMNS),
    ]
    if any("difference" in found["AP"] for found in table.values()):
        reference = next(titles[method] for method, found in table.items() if "difference" not in found["AP"])
        parts += [
            f"## Differences from {reference}, seed by seed\n",
            f"Points, mean ± sample standard deviation of the differences from {reference} with the same seed. In "
            "brackets: the number of seeds with which the method is ahead.\n",
            difference_table(table, titles, groups, DIFFERENCE_COLUMNS),
        ]
    parts += [
        "## For comparison: results of the paper, on LVIS-1.0\n",
        "Not measured here: Table 2 of the slides, Mask R-CNN with FPN on LVIS-1.0, a much larger dataset.\n",
    ]
    for name, figures in PAPER_TABLE_2.items():
        parts += [f"### {name}\n", paper_table(figures)]
    return printable("\n".join([*parts, f"{made_by}\n"]))
