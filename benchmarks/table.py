"""Markdown tables of measurements."""

from __future__ import annotations

from tabulate import tabulate

COLUMNS = ("suite", "work", "stock", "balanced_lvis", "speed-up", "stock MB", "balanced_lvis MB", "identical")
ALIGNED = ("left", "left", "right", "right", "right", "right", "right", "left")


def table(rows: list[dict]) -> str:
    """
    A Markdown table.

    Args:
        rows: rows of :func:`benchmarks.measure.row`.
    """
    return tabulate([_cells(row) for row in rows], headers=COLUMNS, tablefmt="pipe", colalign=ALIGNED)


def _cells(row: dict) -> tuple[str, ...]:
    return (
        row["suite"],
        row["size"],
        seconds(row["stock_seconds"]),
        seconds(row["ours_seconds"]),
        _ratio(row),
        _megabytes(row["stock_peak_mb"]),
        _megabytes(row["ours_peak_mb"]),
        {True: "yes", False: "**no**", None: "–"}[row["identical"]],
    )


def seconds(value: float | None) -> str:
    """Three significant digits with a suitable unit."""
    if value is None:
        return "–"
    return f"{value * 1000:.3g} ms" if value < 1 else f"{value:.3g} s" if value < 1000 else f"{value:.0f} s"


def _ratio(row: dict) -> str:
    if row["ratio"] is None:
        return "–"
    median, least, most = (f"{value:.3g}" for value in (row["ratio"], row["ratio_min"], row["ratio_max"]))
    return f"**{median}** ({least} – {most})"


def _megabytes(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"
