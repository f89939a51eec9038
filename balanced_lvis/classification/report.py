"""
Tables and figure of the experiment.

Shape shorthand: K classes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np

from ..experiments.plots import plt
from ..experiments.published_results import PAPER_TABLE_1
from ..experiments.tables import markdown_table, mean_and_deviation, percent, statistics_of
from ..utils.text import printable
from .evaluation import GROUPS, is_balanced
from .methods import METHODS

# Methods of Figure 1 of the paper.
SHOWN = ("softmax", "eql", "balanced_softmax")
_DASH = "–"
_ALL = "All"
_ALL_IMAGES = "all images"  # no long-tailed subset
_OF_UNBALANCED = "Balanced accuracy (the mean of the classes' top-1 accuracies) on the unbalanced test set"

# {imbalance factor: {method: results.json of each seed}}
Results = Mapping[int, Mapping[str, Sequence[dict]]]


def statistics_table(results: Results) -> dict[str, dict[str, dict]]:
    """
    Mean and sample standard deviation over the seeds.

    Args:
        results: {imbalance: {method: ``results.json`` of each seed}}.

    Returns:
        {imbalance: {method: {"mean", "std", "runs", "many", "medium", "few"}}}: balanced accuracy in percent with its
        values in "runs", and the mean accuracy of the groups; None for a group without classes. ``imbalance`` is a
        string, as in JSON.
    """
    return {
        str(imbalance): {
            method: {
                **statistics_of([run["balanced_accuracy"] for run in runs]),
                **{group: statistics_of([run[group] for run in runs])["mean"] for group in GROUPS},
            }
            for method, runs in of_method.items()
        }
        for imbalance, of_method in results.items()
    }


def balanced_test(runs: Sequence[dict]) -> bool:
    """Whether all ``results.json`` are of balanced test sets."""
    return all(is_balanced(run["test_counts"]) for run in runs)


def results_page(table: Mapping[str, Mapping[str, dict]], title: str, made_by: str, balanced: bool = True) -> str:
    """
    ``table.md``: accuracies as in Table 1 of the paper, those of each frequency group, and the paper's results.

    Args:
        table: as :func:`statistics_table` returns it.
        title: heading of the page.
        made_by: last line.
        balanced: whether the test set is balanced.
    """
    accuracy = "Top-1 accuracy on the balanced test set" if balanced else _OF_UNBALANCED
    parts = [
        f"# {title}\n",
        f"{accuracy} in percent, mean ± sample standard deviation over the seeds.\n",
        accuracy_table(table),
    ]
    for imbalance, of_method in table.items():
        parts += [
            f"## {_imbalance_title(imbalance).capitalize()}\n",
            "Mean accuracy of classes with more than 100, 20 to 100, and fewer than 20 training images.\n",
            groups_table(of_method),
        ]
    parts += [
        "## For comparison: results of the paper\n",
        "Not measured here: Table 1 of the slides, ResNet-32 on CIFAR-10-LT and CIFAR-100-LT.\n",
    ]
    for dataset, rows in PAPER_TABLE_1.items():
        parts += [f"### {dataset}\n", _paper_table(rows)]
    return printable("\n".join([*parts, f"{made_by}\n"]))


def accuracy_table(table: Mapping[str, Mapping[str, dict]]) -> str:
    """A Markdown table with a row per method and a column per imbalance factor."""
    methods = list(dict.fromkeys(method for of_method in table.values() for method in of_method))
    rows = [
        [
            METHODS[method].title,
            *(mean_and_deviation(found[method]) if method in found else _DASH for found in table.values()),
        ]
        for method in methods
    ]
    columns = [_ALL_IMAGES if imbalance == "0" else imbalance for imbalance in table]
    return markdown_table([["Imbalance factor", *columns], *rows])


def groups_table(of_method: Mapping[str, dict]) -> str:
    """A Markdown table with a row per method: accuracy of all classes and of each frequency group."""
    rows = [
        [METHODS[method].title, mean_and_deviation(found), *(percent(found[group]) for group in GROUPS)]
        for method, found in of_method.items()
    ]
    return markdown_table([["Method", _ALL, *(group.capitalize() for group in GROUPS)], *rows])


def _imbalance_title(imbalance: int | str) -> str:
    return f"imbalance factor {imbalance}" if int(imbalance) else _ALL_IMAGES


def _paper_table(rows: Mapping[str, Mapping[int, float]]) -> str:
    columns = list(next(iter(rows.values())))
    shown = [[method, *(percent(values[column]) for column in columns)] for method, values in rows.items()]
    return markdown_table([["Imbalance factor", *map(str, columns)], *shown])


def marginal_figure(results: Results, path: str | os.PathLike) -> None:
    """
    Figure 1 of the paper: the marginal p(y) of each class, from the most to the least frequent one.

    Args:
        results: as for :func:`statistics_table`; methods other than :data:`SHOWN` are left out. Curves are means over
            the seeds.
        path: the image to write.
    """
    figure, axes = plt.subplots(
        1, len(results), figsize=(4 * len(results), 3.8), sharey=True, squeeze=False, layout="constrained"
    )
    for axis, (imbalance, of_method) in zip(axes[0], results.items()):
        for method in SHOWN:
            if method in of_method:
                curve = mean_marginal(of_method[method])
                axis.plot(range(1, len(curve) + 1), curve, label=METHODS[method].title)
        num_classes = len(next(iter(of_method.values()))[0]["marginal"])
        axis.axhline(1 / num_classes, color="gray", linestyle="--", linewidth=1, label="uniform")
        axis.set_title(_imbalance_title(imbalance))
        axis.set_xlabel("class, by training frequency")
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("marginal p(y) on the test set")
    handles, labels = axes[0][0].get_legend_handles_labels()
    columns = min(len(labels), 2 * len(results))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def mean_marginal(runs: Sequence[dict]) -> np.ndarray:
    """
    Args:
        runs: ``results.json`` of each seed.

    Returns:
        (K,), p(y) from the most to the least frequent class, mean over the runs.
    """
    order = np.argsort(-np.array(runs[0]["train_counts"]), kind="stable")
    return np.mean([run["marginal"] for run in runs], axis=0)[order]
