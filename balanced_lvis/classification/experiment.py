"""Every method at several imbalance factors and seeds, as in Table 1 and Figure 1 of the paper."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Sequence
from pathlib import Path

from ..console.printing import print_text
from ..experiments.arguments import OWN_KEYS, check_overrides, check_seeds, choose_methods
from ..experiments.run_processes import made_by, run_all
from ..experiments.runs import Run
from ..experiments.tables import percent
from ..utils.errors import InputError
from ..utils.io import write_json, write_text
from ..utils.job_lock import only_job_in
from .config import check_config, check_schedule, load_config
from .evaluation import GROUPS
from .methods import METHODS
from .report import balanced_test, marginal_figure, results_page, statistics_table
from .run import dataset_from_config, test_set, training_subset
from .runs import ClassifierRun, EvaluationRun
from .steps import check_no_empty_class

IMBALANCES = (200, 100, 10)  # as the columns of the paper's table
# A smoke test of all methods in two minutes; its results mean nothing.
QUICK_SEEDS = (0,)
QUICK = (
    "DATASET.CHARACTERS.NUM_CLASSES", "10", "DATASET.CHARACTERS.TRAIN_PER_CLASS", "300",
    "DATASET.CHARACTERS.TEST_PER_CLASS", "10", "SOLVER.MAX_ITER", "20", "SOLVER.IMS_PER_BATCH", "32",
    "SOLVER.WARMUP_ITERS", "5",
)  # fmt: skip
SET_KEYS = {
    **OWN_KEYS,
    "DATASET.LONG_TAIL.IMBALANCE": "use --imbalance instead",
    "MODEL.WEIGHTS": "it is set to the model of the first stage",
}
TABLE, PAGE, FIGURE = "table.json", "table.md", "marginal.png"

Key = tuple[int, str, int]  # imbalance factor, method, seed


def run_experiment(
    methods: Sequence[str],
    imbalances: Sequence[int],
    seeds: Sequence[int],
    output: Path,
    configs: str,
    overrides: Sequence[str] = (),
    jobs: int | None = None,
    command: str = "",
) -> dict:
    """
    Train and evaluate every method, and write ``table.md``, ``table.json`` and ``marginal.png`` to ``output``.

    Each run has a folder: ``output``/imbalance_100/METHOD/seed_0 and so on. Finished runs of the same config are kept,
    and interrupted ones resume from their last checkpoint.

    Args:
        methods: keys of :data:`balanced_lvis.classification.methods.METHODS`; the first stages of second stages are
            added.
        imbalances: imbalance factors of the training set, at least 1; 0 for all images.
        seeds: whole numbers from 0, of training only: the images are the same for all.
        output: folder of the runs and the results.
        configs: start of the paths of the configs, before ``METHOD.yaml``.
        overrides: ``KEY VALUE`` pairs, for all runs.
        jobs: number of simultaneous runs; by default one per core, or 1 on a GPU.
        command: the command line to name in ``table.md``.

    Returns:
        the content of ``table.json``: {imbalance: {method: {"mean", "std", "runs", "many", "medium", "few"}}}, in
        percent.

    Raises:
        InputError: if an argument is invalid, another job writes to ``output``, or a run fails, with the end of its
            output.
    """
    start = time.monotonic()
    methods = choose_methods(methods, METHODS)
    imbalances, seeds = _check_imbalances(imbalances), check_seeds(seeds)
    check_overrides(overrides, SET_KEYS)
    runs = _runs(methods, imbalances, seeds, output, configs, tuple(overrides))
    with only_job_in(output, "--output"):
        all_runs: list[Run] = list(runs.values())
        counts = run_all(all_runs, all_runs, output, jobs=jobs, prepare=_prepare_data, describe=_accuracies)
        return _write(runs, output, configs, made_by(command or "run_experiment", seeds, start, *counts))


def _check_imbalances(imbalances: Sequence[int]) -> list[int]:
    distinct = list(dict.fromkeys(imbalances))
    if not distinct or min(distinct) < 0:
        raise InputError(
            f"--imbalance: {distinct}; give one or more whole numbers, such as 10 100, or 0 for all images."
        )
    return distinct


def _runs(
    methods: list[str], imbalances: list[int], seeds: list[int], output: Path, configs: str, overrides: tuple[str, ...]
) -> dict[Key, ClassifierRun]:
    """Seed by seed, so that the whole table has results early; first stages come first."""
    runs: dict[Key, ClassifierRun] = {}
    for seed in seeds:
        for imbalance in imbalances:
            for key in sorted(methods, key=lambda key: METHODS[key].first_stage is not None):
                runs[imbalance, key, seed] = _run(runs, imbalance, key, seed, output, configs, overrides)
    return runs


def _run(runs, imbalance: int, key: str, seed: int, output: Path, configs: str, overrides) -> ClassifierRun:
    method = METHODS[key]
    after = runs.get((imbalance, method.first_stage, seed))
    config = Path(f"{configs}{key}.yaml")
    own = ["SEED", str(seed), "DATASET.LONG_TAIL.IMBALANCE", str(float(imbalance)), *_deferred_start(config, overrides)]
    if after:
        own += ["MODEL.WEIGHTS", str(after.weights)]
    kind = EvaluationRun if method.evaluates_only else ClassifierRun
    return kind(
        f"{imbalance}/{key}/{seed}",
        f"{key}, imbalance {imbalance}, seed {seed}",
        config,
        output / f"imbalance_{imbalance}" / key / f"seed_{seed}",
        (*overrides, *own),
        after,
    )


@functools.lru_cache(maxsize=len(METHODS))
def _deferred_start(config: Path, overrides: tuple[str, ...]) -> list[str]:
    """
    An override that keeps the share of the schedule at which re-weighting starts, if ``overrides`` change its length.

    Overrides are for all methods: DRW_START among them would make LDAM-DRW of LDAM, too.
    """
    if "SOLVER.MAX_ITER" not in overrides[::2]:
        return []
    before, now = load_config(config), load_config(config, overrides)
    name = before.MODEL.ACTIVATION.NAME.upper()
    key, start = f"MODEL.ACTIVATION.{name}.DRW_START", before.MODEL.ACTIVATION.get(name, {}).get("DRW_START", -1)
    if start <= 0 or key in overrides[::2]:
        return []
    return [key, str(start * now.SOLVER.MAX_ITER // before.SOLVER.MAX_ITER)]


def _prepare_data(runs: Sequence[Run]) -> None:
    """
    Check configs and data before the first run: errors are shown early, and characters are rendered only once.

    Raises:
        InputError: if a config or the data is invalid, or too small for an imbalance factor or the Meta Sampler.
    """
    if not runs:
        return
    dataset = dataset_from_config(runs[0].config())  # all runs have the same images
    test_set(dataset)
    images, checked = dataset.train(), {}
    for run in runs:
        cfg = run.config()
        check_config(cfg)
        if not isinstance(run, EvaluationRun):
            check_schedule(cfg)
        tail = cfg.DATASET.LONG_TAIL
        key = (tail.IMBALANCE, tail.MAX_COUNT, tail.SEED)
        if key not in checked:
            checked[key] = training_subset(cfg, images).counts()
        if cfg.SOLVER.META.ENABLED:
            check_no_empty_class(checked[key], images.class_names)


def _accuracies(results: dict) -> str:
    groups = ", ".join(f"{group} {percent(results[group])}" for group in GROUPS)
    if balanced_test([results]):
        return f"accuracy {percent(results['accuracy'])} ({groups})"
    return f"balanced accuracy {percent(results['balanced_accuracy'])} ({groups})"


def _write(runs: dict[Key, ClassifierRun], output: Path, configs: str, last_line: str) -> dict:
    results: dict[int, dict[str, list[dict]]] = {}
    for imbalance, key in dict.fromkeys((imbalance, key) for imbalance, key, _ in runs):
        found = [run.results() for (i, k, _), run in runs.items() if (i, k) == (imbalance, key)]
        results.setdefault(imbalance, {})[key] = found
    results = {i: {key: of_method[key] for key in METHODS if key in of_method} for i, of_method in results.items()}
    table = statistics_table(results)
    title = f"Long-tailed classification, {os.path.relpath(f'{configs}*.yaml')}"
    balanced = balanced_test([run for of_method in results.values() for found in of_method.values() for run in found])
    page = results_page(table, title, last_line, balanced)
    write_text(output / PAGE, page)
    write_json(output / TABLE, table, indent=1)
    marginal_figure(results, output / FIGURE)
    print_text(f"\n{page}\nThe tables and the figure are in {output}/")
    return table
