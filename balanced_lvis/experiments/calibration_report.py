"""Table, plot and config of calibrations that were evaluated on one checkpoint."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from ..config.calibration_keys import calibration_keys
from ..drawing.lettering import label_text
from ..utils.io import write_text
from ..utils.text import printable
from .plots import COLORS, MARKERS, plt
from .tables import TASKS, markdown_table, number, percent

REPORT_FILES = ("table.md", "tradeoff.png")  # of write_report
_METRICS = ("AP", "APr", "APc", "APf")


def tables_of(found: dict, warnings: Sequence[str] = ()) -> str:
    """
    Markdown: all settings, and with held-out images the results on them.

    Args:
        found: from :func:`.calibration_grid.evaluate_settings`.
        warnings: shown first.
    """
    held = found["holdout"]
    labels = [setting["label"] for setting in found["settings"]]
    results = {index: setting["results"] for index, setting in enumerate(found["settings"])}
    parts = [f"**Warning:** {warning}\n" for warning in warnings]
    chosen = "" if found["best"] is None else f" The best by {_title(found['select'])} is marked with *."
    images = f"{found['images']:,} images of {found['dataset']}"
    parts += [f"Percent, on {images}.{chosen}\n", _table(labels, results, found["best"])]
    if held:
        others = {int(index): of for index, of in held["results"].items()}
        parts += [
            f"On {held['images']:,} held-out images (share {held['share']:g}, seed {held['seed']}), on which no "
            "setting was chosen: without calibration, and the setting of each calibration that is the best above.\n",
            _table(labels, others, found["best"]),
        ]
    return "\n".join(parts)


def _title(select: str) -> str:
    task, metric = select.split("/")
    return f"{TASKS[task]} {metric}"


def _table(labels: Sequence[str], results: Mapping[int, dict], best: int | None) -> str:
    tasks = [task for task in reversed(TASKS) if any(task in found for found in results.values())]
    header = ["calibration", *(f"{TASKS[task]} {metric}" for task in tasks for metric in _METRICS)]
    rows = [
        [
            labels[index] + (" *" if index == best else ""),
            *(_percent(found[task][metric]) for task in tasks for metric in _METRICS),
        ]
        for index, found in results.items()
    ]
    return markdown_table([header, *rows])


def _percent(value: float | None) -> str:
    """With two decimals, as neighbours in a grid differ little."""
    value = number(value)
    return percent(value) if math.isnan(value) else f"{value:.2f}"


def plot_tradeoff(found: dict, path: str | os.PathLike) -> None:
    """
    Plot the AP of rare against that of frequent categories: a curve per calibration, with the values of its option.

    Args:
        found: from :func:`.calibration_grid.evaluate_settings`.
        path: image file to write.
    """
    task = found["select"].partition("/")[0]
    figure, axes = plt.subplots(figsize=(8, 6), layout="constrained")
    axes.grid(color="0.92")
    for position, (name, points) in enumerate(_curves(found["settings"]).items()):
        places = [_place(setting, task) for _, setting in points]
        color, marker = COLORS[position % len(COLORS)], MARKERS[position % len(MARKERS)]
        if name == "none":
            axes.plot(*zip(*places), "*", color="0.2", markersize=14, label=name)
        else:
            axes.plot(*zip(*places), color=color, marker=marker, label=label_text(name))
        for (text, _), place in zip(points, places):
            offset = 5 - 10 * (position % 2)
            text = label_text(text)
            axes.annotate(text, place, textcoords="offset points", xytext=(5, offset), color=color, fontsize=8)
    if found["best"] is not None:
        place = _place(found["settings"][found["best"]], task)
        label = f"best {_title(found['select'])}"
        axes.plot(*place, "o", markersize=18, markerfacecolor="none", color="0.2", label=label)
    axes.set(xlabel=f"{TASKS[task]} APf (frequent categories)", ylabel=f"{TASKS[task]} APr (rare categories)")
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _place(setting: dict, task: str) -> tuple[float, float]:
    results = setting["results"][task]
    return number(results["APf"]), number(results["APr"])


def _curves(settings: Sequence[dict]) -> dict[str, list[tuple[str, dict]]]:
    """
    {name of a curve: (value of its option, setting) of each point}: settings that differ in the first option that is a
    number.
    """
    curves: dict[str, list] = {}
    for setting in settings:
        options = {name: setting["options"][name] for name in setting["varied"]}
        along = next((name for name, value in options.items() if isinstance(value, float)), None)
        others = [f"{name} {value}" for name, value in options.items() if name != along]
        name = ", ".join([setting["calibration"] or "none", *others])
        text = "" if along is None else f"{options[along]:g}"
        curves.setdefault(f"{name}, by {along}" if along else name, []).append((text, setting))
    return curves


def calibration_lines(setting: dict) -> str:
    """The yaml lines of a setting, with all options of its calibration."""
    return yaml.safe_dump(_nested(calibration_keys(setting["calibration"], setting["options"])), sort_keys=False)


def config_of(setting: dict, base: str, overrides: Mapping[str, object], folder: str | os.PathLike) -> str:
    """
    A config with the calibration of a setting.

    Args:
        setting: of "settings" in :func:`.calibration_grid.evaluate_settings`.
        base: ``--config-file``; empty for none.
        overrides: {key: value} of the command line.
        folder: folder that the config is written to.
    """
    keys = {**overrides, **calibration_keys(setting["calibration"], setting["options"])}
    content = _nested({key: list(value) if isinstance(value, tuple) else value for key, value in keys.items()})
    if base:
        content = {"_BASE_": os.path.relpath(base, folder) if os.path.exists(base) else base, **content}
    return f"# Written by `balanced-lvis calibrate`: {setting['label']}.\n{yaml.safe_dump(content, sort_keys=False)}"


def _nested(keys: Mapping[str, object]) -> dict:
    content: dict = {}
    for key, value in keys.items():
        *path, name = key.split(".")
        node = content
        for part in path:
            node = node.setdefault(part, {})
        node[name] = value
    return content


def write_report(found: dict, folder: str | os.PathLike, warnings: Sequence[str], command: str) -> str:
    """
    Write :data:`REPORT_FILES`.

    Args:
        found: from :func:`.calibration_grid.evaluate_settings`.
        folder: folder to write to.
        warnings: shown first.
        command: last line of the table's file.

    Returns:
        the tables.
    """
    tables = tables_of(found, warnings)
    table, plot = (Path(folder, name) for name in REPORT_FILES)
    write_text(table, printable(f"# Calibrations\n\n{tables}\n{command}\n"))
    plot_tradeoff(found, plot)
    return tables
