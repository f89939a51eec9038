"""The page of the search for combinations."""

from __future__ import annotations

from collections.abc import Mapping

from ..utils.text import printable
from .comparison_report import DIFFERENCE_COLUMNS, MASK_COLUMNS, METRICS
from .tables import TASKS, markdown_table, mean_and_deviation, number, or_lowest, percent, statistics_of

_COLUMNS = {**MASK_COLUMNS, "AP_box_r": "APr box"}


def compared_with_all(combinations: Mapping[str, dict], methods: Mapping[str, dict]) -> dict[str, dict[str, dict]]:
    """
    Compare combinations with the best method of each seed.

    Args:
        combinations: {combination: {metric: {"mean", "std", "runs"}}}.
        methods: the same of the methods, with the same seeds.

    Returns:
        the combinations, where each metric also has "margin": {"mean", "std", "runs", "ahead"}, the difference from the
        best value that any method has with the same seed. "ahead" is the number of seeds with which the combination is
        ahead of every method.
    """
    return {
        key: {metric: {**found[metric], "margin": _margin(found, methods, metric)} for metric in found}
        for key, found in combinations.items()
    }


def _margin(found: Mapping[str, dict], methods: Mapping[str, dict], metric: str) -> dict:
    runs = []
    for index, value in enumerate(found[metric]["runs"]):
        others = [other[metric]["runs"][index] for other in methods.values()]
        known = [other for other in others if other is not None]
        runs.append(number(value) - max(known) if known else None)
    return {**statistics_of(runs), "ahead": sum(number(value) > 0 for value in runs)}


def combinations_page(content: Mapping, titles: Mapping[str, str], images: int, made_by: str) -> str:
    """
    ``combinations.md``: how combinations were chosen, their ranking, and the best ones next to every method.

    Args:
        content: as :func:`.combination_search.search_combinations` returns it.
        titles: {combination or method: name to show}.
        images: number of images of the search split.
        made_by: last line.
    """
    metric, seed, seeds = content["metric"], content["search_seed"], content["seeds"]
    task, name = METRICS[metric]
    metric_title = f"{TASKS[task]} {name}"
    best = list(content["combinations"])
    seen = (
        f"Seed {seed} is also one of the {len(seeds)} seeds below, so its models have been chosen from."
        if seed in seeds
        else f"Seed {seed} is none of the seeds below."
    )
    parts = [
        "# Combinations\n",
        f"{len(content['search'])} combinations of an end-to-end method, a sampler, a second stage and a calibration "
        f"were trained with seed {seed} and ranked by {metric_title} on {images} images that are rendered for the "
        f"search: none of them is a training image or one of the validation images below. {seen} The best {len(best)} "
        f"that are not a method of the comparison were then trained with seed{'s' * (len(seeds) > 1)} "
        f"{', '.join(map(str, seeds))} and evaluated on the validation set.\n",
        "## The best combinations on the validation set\n",
        _verdict(content, titles, metric, metric_title),
        "Percent, mean ± sample standard deviation over the seeds.\n",
        _table(content["combinations"], titles),
        "Difference from the best method with the same seed, in points. In brackets: the number of seeds with which "
        "the combination is ahead of every method.\n",
        _margins(content["combinations"], titles),
        "## Methods on the validation set\n",
        _table(dict(sorted(content["methods"].items(), key=lambda item: -_mean(item[1][metric]))), titles),
        f"## Ranking on the search split, seed {seed}\n",
        _ranking(content["search"], titles, metric),
    ]
    return printable("\n".join([*parts, f"{made_by}\n"]))


def _verdict(content: Mapping, titles: Mapping[str, str], metric: str, metric_title: str) -> str:
    seeds, methods = len(content["seeds"]), len(content["methods"])
    lines = []
    for key, found in content["combinations"].items():
        ahead = found[metric]["margin"]["ahead"]
        whether = "is ahead" if ahead == seeds else "is not always ahead"
        lines.append(
            f"- **{titles[key]}** {whether} of every one of the {methods} methods in {metric_title}: with {ahead} of "
            f"{seeds} seed{'s' * (seeds > 1)}.\n"
        )
    return "".join(lines) or "Every combination equals a method of the comparison.\n"


def _table(table: Mapping[str, dict], titles: Mapping[str, str]) -> str:
    rows = [[titles[key], *(mean_and_deviation(found[metric]) for metric in _COLUMNS)] for key, found in table.items()]
    return markdown_table([["", *_COLUMNS.values()], *rows])


def _margins(table: Mapping[str, dict], titles: Mapping[str, str]) -> str:
    rows = [
        [titles[key], *(_margin_cell(found[metric]["margin"]) for metric in DIFFERENCE_COLUMNS)]
        for key, found in table.items()
    ]
    return markdown_table([["", *DIFFERENCE_COLUMNS.values()], *rows])


def _margin_cell(margin: Mapping) -> str:
    return f"{mean_and_deviation(dict(margin), sign=True)} ({margin['ahead']}/{len(margin['runs'])})"


def _ranking(search: Mapping[str, dict], titles: Mapping[str, str], metric: str) -> str:
    order = sorted(search, key=lambda key: -or_lowest(search[key][metric]))
    rows = [[titles[key], *(percent(search[key][column]) for column in _COLUMNS)] for key in order]
    return markdown_table([["", *_COLUMNS.values()], *rows])


def _mean(found: Mapping) -> float:
    return or_lowest(found["mean"])
