"""Markdown tables of results, and statistics over seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from ..utils.text import one_line

TASKS = {"bbox": "box", "segm": "mask"}


def markdown_table(rows: list[list[str]]) -> str:
    """An aligned Markdown table: the first row is the header, the first column is left-aligned."""
    rows = [[one_line(cell).replace("|", "\\|") for cell in row] for row in rows]
    rows = [rows[0], ["---", *("---:" for _ in rows[0][1:])], *rows[1:]]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(_line(row, widths, fill="-" if i == 1 else " ") for i, row in enumerate(rows)) + "\n"


def _line(cells, widths, fill):
    first, *rest = (cell.rjust(width, fill) for cell, width in zip(cells, widths))
    return "| " + " | ".join([cells[0].ljust(len(first), fill), *rest]) + " |"


def percent(value: float | None, sign: bool = False) -> str:
    """A value with one decimal; a dash for None and NaN."""
    value = number(value)
    return "–" if math.isnan(value) else f"{value:{'+' if sign else ''}.1f}"


def number(value: float | None) -> float:
    """The value; NaN for None."""
    return math.nan if value is None else float(value)


def or_lowest(value: float | None) -> float:
    """The value, to sort by; minus infinity for None."""
    return -math.inf if value is None else value


def statistics_of(runs: Sequence[float | None]) -> dict:
    """
    Mean and sample standard deviation.

    Args:
        runs: a value per seed; None or NaN for missing ones, which are left out.

    Returns:
        {"mean": None without values, "std": None with fewer than two values, "runs": the values, None for missing ones}
    """
    values = [None if math.isnan(number(value)) else number(value) for value in runs]
    known = [value for value in values if value is not None]
    return {
        "mean": statistics.fmean(known) if known else None,
        "std": statistics.stdev(known) if len(known) > 1 else None,
        "runs": values,
    }


def mean_and_deviation(found: dict, sign: bool = False) -> str:
    """The text "mean ± std" of :func:`statistics_of`, with one decimal; only the mean of one value."""
    return percent(found["mean"], sign) + ("" if found["std"] is None else f" ± {percent(found['std'])}")
