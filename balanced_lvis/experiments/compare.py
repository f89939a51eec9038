"""Comparison of methods over several seeds, as in Table 2 of the paper."""

from __future__ import annotations

import os
import time
from pathlib import Path

from ..console.printing import print_text
from ..data.config_datasets import prepare_rendered, rendered_root
from ..utils.io import write_json
from ..utils.job_lock import only_job_in
from .arguments import check_overrides, check_seeds, choose_methods
from .comparison_report import comparison_page, plot_ap_by_bin, statistics_table
from .methods import METHODS
from .run_processes import train_all
from .run_progress import Reporter
from .runs import RESULTS, Run, discard_stale, unfinished

TABLE = "table.json"
PAGE = "table.md"


# A smoke test of all methods in minutes; its results mean nothing.
QUICK_SEEDS = (0,)
QUICK = (
    "DATASETS.RENDERED.TRAIN_IMAGES", "200", "DATASETS.RENDERED.VAL_IMAGES", "40", "DATASETS.RENDERED.TEST_IMAGES", "4",
    "SOLVER.MAX_ITER", "20", "SOLVER.WARMUP_ITERS", "5", "SOLVER.CHECKPOINT_PERIOD", "10",
)  # fmt: skip


def compare(
    methods,
    seeds,
    train_net: Path | None,
    output: Path,
    configs: str,
    overrides: tuple[str, ...] | list[str] = (),
    jobs: int | None = None,
    command: str = "",
) -> dict:
    """
    Train every method with every seed, evaluate, and write ``table.md``, ``table.json`` and plots to ``output``.

    Each run has a folder: ``output``/method/seed_0 and so on. Finished runs are kept, and interrupted ones resume from
    their last checkpoint. Runs of another config are deleted, and so are second stages whose first stage is trained in
    this call.

    Args:
        methods: keys of :data:`METHODS`; the first stages of second stages are added.
        seeds: whole numbers from 0, for training only: the rendered dataset is the same for all.
        train_net: path of a script like ``tools/train_net.py``; None: ``balanced-lvis train``.
        output: folder for the runs and the results.
        configs: start of the paths of the configs, before ``METHOD.yaml``.
        overrides: ``KEY VALUE`` pairs, for all runs.
        jobs: number of simultaneous runs; by default one per core, or 1 on a GPU.
        command: the command line to name in ``table.md``.

    Returns:
        the contents of ``table.json``: {method: {metric: {"mean", "std", "runs"}}} in percent.

    Raises:
        InputError: if a method is unknown, a seed is negative, an override sets a key that differs between the
            runs, the weights of a first stage were removed, another job writes to the output folder, or a training run
            fails, with the end of its output.
    """
    start = time.monotonic()
    methods, seeds = choose_methods(list(methods), METHODS), check_seeds(seeds)
    check_overrides(overrides)
    runs = _runs(METHODS, seeds, output, configs, tuple(overrides))
    chosen = [run for (method, _), run in runs.items() if method in methods]
    with only_job_in(output, "--output"):
        to_do = unfinished(chosen)
        discard_stale(to_do, list(runs.values()), output)
        _prepare_data(to_do)
        print(f"{len(to_do)} runs to train and evaluate, {len(chosen) - len(to_do)} already finished", flush=True)
        train_all(to_do, train_net, jobs, Reporter(len(to_do)), num_runs=len(chosen))
        minutes, kept = (time.monotonic() - start) / 60, len(chosen) - len(to_do)
        made_by = (
            f"Made by `{command or 'compare'}` with {len(seeds)} seed{'s' * (len(seeds) > 1)}: {len(to_do)} runs in "
            f"{minutes:.1f} minutes; {kept} had already finished."
        )
        return _write(methods, {key: run for key, run in runs.items() if run in chosen}, output, configs, made_by)


def _runs(methods, seeds, output: Path, configs: str, overrides) -> dict[tuple[str, int], Run]:
    """{(method, seed): run}, seed by seed, so that all methods have a result early; first stages come first."""
    runs: dict[tuple[str, int], Run] = {}
    for seed in seeds:
        for method in sorted(methods.values(), key=lambda method: method.first_stage is not None):
            after = runs.get((method.first_stage, seed))
            # Last, as it takes precedence: an override of MODEL.WEIGHTS is for first stages.
            own = ["SEED", str(seed), *(["MODEL.WEIGHTS", str(after.weights)] if after else [])]
            runs[method.key, seed] = Run(
                f"{method.key}/seed_{seed}",
                f"{method.key} seed {seed}",
                Path(f"{configs}{method.key}.yaml"),
                output / method.key / f"seed_{seed}",
                (*overrides, *own),
                after,
            )
    return runs


def _prepare_data(runs: list[Run]) -> None:
    """Render datasets once, before several runs need them at the same time."""
    configs = [run.config() for run in runs]
    for cfg in {rendered_root(cfg): cfg for cfg in configs}.values():
        prepare_rendered(cfg)


def _write(methods: list[str], runs: dict[tuple[str, int], Run], output: Path, configs: str, made_by: str) -> dict:
    by_method = {method: [run for (key, _), run in runs.items() if key == method] for method in methods}
    table = statistics_table({method: [run.load(RESULTS) for run in found] for method, found in by_method.items()})
    titles = {method: METHODS[method].full_title for method in methods}
    title = f"Comparison of {len(methods)} methods, {os.path.relpath(f'{configs}*.yaml')}"
    page = comparison_page(table, titles, title, f"{_schedules(runs.values())} {made_by}")
    (output / PAGE).write_text(page, encoding="utf-8")
    per_category = {
        titles[method]: [run.load("inference", "per_category_ap.json") for run in found]
        for method, found in by_method.items()
    }
    second_stages = {titles[method] for method in methods if METHODS[method].first_stage}
    for task, name in (("bbox", "box"), ("segm", "mask")):
        plot_ap_by_bin(per_category, output / f"{name}_ap_by_frequency.png", task, second_stages)
    write_json(output / TABLE, table, indent=1)
    print_text(f"\n{page}\nTables and plots are in {output}/")
    return table


def _schedules(runs) -> str:
    """The schedules: second stages train for longer in total, which explains a part of their gain."""
    first, second = (
        sorted({run.config().SOLVER.MAX_ITER for run in runs if (run.after is not None) == later})
        for later in (False, True)
    )
    sentence = f"End-to-end methods train for {' or '.join(map(str, first))} iterations"
    return sentence + (f", second stages for {' or '.join(map(str, second))} more." if second else ".")
