"""Comparison of methods over several seeds, as in Table 2 of the paper."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..console.printing import print_text
from ..data.config_datasets import prepare_rendered, rendered_root
from ..utils.io import write_json, write_text
from ..utils.job_lock import only_job_in
from ..utils.run_files import INFERENCE, PER_CATEGORY
from .arguments import check_overrides, check_seeds, choose_methods
from .comparison_plots import plot_ap_by_bin, plot_rare_ap, shown_in_bins
from .comparison_report import add_differences, comparison_page, statistics_table
from .comparison_runs import RunKey, comparison_runs, is_config_file, method_of_config
from .methods import METHODS, REFERENCE, Method, full_titles
from .run_processes import made_by, run_all
from .run_report import remove_report, report_runs
from .runs import Run
from .tables import TASKS

TABLE = "table.json"
PAGE = "table.md"


# A smoke test of all methods in minutes; its results mean nothing.
QUICK_SEEDS = (0,)
QUICK = (
    "DATASETS.RENDERED.TRAIN_IMAGES", "200", "DATASETS.RENDERED.VAL_IMAGES", "40", "DATASETS.RENDERED.TEST_IMAGES", "4",
    "SOLVER.MAX_ITER", "20", "SOLVER.WARMUP_ITERS", "5", "SOLVER.CHECKPOINT_PERIOD", "10",
)  # fmt: skip


@dataclass(frozen=True)
class Experiment:
    """
    Methods to train with several seeds, and how to run them.

    Attributes:
        methods: keys of :data:`METHODS`, and paths of configs of other methods
            (:func:`.comparison_runs.method_of_config`); the first stages of second stages are added.
        seeds: whole numbers from 0, for training only: the rendered dataset is the same for all.
        output: folder for the runs and the results.
        configs: start of the paths of the configs, before ``METHOD.yaml``.
        overrides: ``KEY VALUE`` pairs, for all runs.
        program: path of a program with the commands of ``balanced-lvis``; None: ``balanced-lvis`` itself.
        jobs: number of simultaneous runs; by default one per core, or one per GPU.
        command: the command line to name in the results.
    """

    methods: Sequence[str]
    seeds: Sequence[int]
    output: Path
    configs: str
    overrides: Sequence[str] = ()
    program: Path | None = None
    jobs: int | None = None
    command: str = ""

    def run_all(self, chosen: list[Run], runs: list[Run]) -> tuple[int, int]:
        """As :func:`.run_processes.run_all`."""
        return run_all(chosen, runs, self.output, self.program, self.jobs, _prepare_data)


def compare(experiment: Experiment) -> dict:
    """
    Train every method with every seed, evaluate, and write ``table.md``, ``table.json``, plots and a report of the
    first seed of the reference and of the best method to the output folder.

    Each run has a folder in it: method/seed_0 and so on. Finished runs are kept, and interrupted ones resume from their
    last checkpoint. Runs of another config are deleted, and so are runs that start from a first stage that is trained
    in this call.

    Returns:
        the contents of ``table.json``: {method: {metric: {"mean", "std", "runs", "difference"}}} in percent; see
        :func:`.comparison_report.add_differences`.

    Raises:
        InputError: if a method is unknown, a seed is negative, an override sets a key that differs between the
            runs, the weights of a first stage were removed, another job writes to the output folder, or a training run
            fails, with the end of its output.
    """
    start = time.monotonic()
    output, overrides = experiment.output, tuple(experiment.overrides)
    table, files, keys = all_methods(list(experiment.methods), experiment.configs, overrides)
    chosen_methods, seeds = choose_methods(keys, table), check_seeds(experiment.seeds)
    check_overrides(overrides)
    runs = comparison_runs(table, files, seeds, output, overrides)
    chosen = {key: run for key, run in runs.items() if key[0] in chosen_methods}
    with only_job_in(output, "--output"):
        remove_report(output)
        counts = experiment.run_all(list(chosen.values()), list(runs.values()))
        last_line = made_by(experiment.command or "compare", seeds, start, *counts)
        title = f"Comparison of {len(chosen_methods)} methods, {os.path.relpath(f'{experiment.configs}*.yaml')}"
        return _write({key: table[key] for key in chosen_methods}, chosen, output, title, last_line)


def all_methods(
    words: list[str], configs: str, overrides: tuple[str, ...]
) -> tuple[dict[str, Method], dict[str, Path], list[str]]:
    """
    The table of methods with those that configs define.

    Args:
        words: keys and paths of configs.
        configs: start of the paths of the configs of :data:`METHODS`.
        overrides: ``KEY VALUE`` pairs.

    Returns:
        {key: method}; {key: config}; the words as keys.

    Raises:
        InputError: if a config is invalid or has the name of another method.
    """
    table = dict(METHODS)
    files = {key: Path(f"{configs}{key}.yaml") for key in METHODS}
    keys = []
    for word in dict.fromkeys(words):
        if is_config_file(word):
            method = method_of_config(word, table, overrides)
            table[method.key], files[method.key], word = method, Path(word), method.key
        keys.append(word)
    return table, files, keys


def _prepare_data(runs: list[Run]) -> None:
    """Render datasets once, before several runs need them at the same time."""
    configs = [run.config() for run in runs]
    for cfg in {rendered_root(cfg): cfg for cfg in configs}.values():
        prepare_rendered(cfg)


def _write(methods: dict[str, Method], runs: dict[RunKey, Run], output: Path, title: str, last_line: str) -> dict:
    by_method = {method: [run for (key, _), run in runs.items() if key == method] for method in methods}
    table = add_differences(
        statistics_table({method: [run.results() for run in found] for method, found in by_method.items()}), REFERENCE
    )
    titles = full_titles(methods)
    groups = {key: method.group for key, method in methods.items()}
    page = comparison_page(table, titles, groups, title, f"{_schedules(runs.values())} {last_line}")
    write_text(output / PAGE, page)
    shown = shown_in_bins(table, groups)
    per_category = {
        titles[method]: [run.load(INFERENCE, PER_CATEGORY) for run in by_method[method]] for method in shown
    }
    hollow = {titles[method] for method in shown if methods[method].first_stage}
    for task, name in TASKS.items():
        plot_ap_by_bin(per_category, output / f"{name}_ap_by_frequency.png", task, hollow)
        plot_rare_ap(table, titles, groups, output / f"{name}_ap_of_rare_categories.png", task)
    write_json(output / TABLE, table, indent=1)
    print_text(f"\n{page}\nTables and plots are in {output}/")
    best = best_and_reference(table)
    seed = min(seed for _, seed in runs)
    report_runs({titles[key]: runs[key, seed] for key in best}, output, f"{title}: {' and '.join(best)}, seed {seed}")
    return table


def best_and_reference(table: dict) -> list[str]:
    """The methods of the report: the reference, or the first one without it, and the one with the highest mask AP."""
    reference = REFERENCE if REFERENCE in table else next(iter(table))
    known = {key: table[key]["AP"]["mean"] for key in table if key != reference}
    known = {key: mean for key, mean in known.items() if mean is not None}
    return [reference, max(known, key=known.__getitem__)] if known else [reference]


def _schedules(runs) -> str:
    """The schedules: second stages train for longer in total, which explains a part of their gain."""
    trained = [run for run in runs if run.trains]
    first, second = (
        sorted({run.config().SOLVER.MAX_ITER for run in trained if (run.after is not None) == later})
        for later in (False, True)
    )
    sentence = f"End-to-end methods train for {' or '.join(map(str, first))} iterations"
    return sentence + (f", second stages for {' or '.join(map(str, second))} more." if second else ".")
