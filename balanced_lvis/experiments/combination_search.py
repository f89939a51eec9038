"""Search for the best combination on a split of its own, and comparison of the best ones with every single method."""

from __future__ import annotations

import json
import time
from pathlib import Path

from ..config import load_config
from ..console.printing import print_text
from ..data.config_datasets import rendered_root, rendered_spec, uses_rendered
from ..data.rendered import annotation_file, render_dataset
from ..utils.errors import InputError
from ..utils.io import write_json, write_text
from ..utils.job_lock import only_job_in
from .arguments import check_overrides, check_seeds, choose_methods
from .combination_report import combinations_page, compared_with_all
from .combinations import SEARCH, Combination, Combinations
from .compare import Experiment, all_methods
from .comparison_report import METRICS, statistics_table
from .comparison_runs import comparison_runs
from .methods import full_titles
from .tables import or_lowest

PAGE = "combinations.md"
TABLE = "combinations.json"
KEPT = 4
FINALISTS = 3


def search_combinations(
    experiment: Experiment, search_seed: int = 0, metric: str = "AP", finalists: int = FINALISTS
) -> dict:
    """
    Look for the best combination of activation, sampler, second stage and calibration, and write ``combinations.md``
    and ``combinations.json`` to the output folder.

    The parts are the chosen methods of the comparison. The combinations are trained with one seed and ranked on a split
    of their own: new images of the same categories, rendered with the next ``DATASETS.RENDERED.SEED``. First all
    end-to-end methods are ranked; then the best of them with other samplers; then the best so far with second stages;
    and the best so far with calibrations. The best combinations are then trained with all seeds and compared on the
    validation set with every method. Runs that the comparison has, or will have, are shared with it.

    Args:
        experiment: of :func:`.compare.compare`.
        search_seed: seed that combinations are trained with for the search.
        metric: key of :data:`.comparison_report.METRICS` to rank by; "AP" is mask AP.
        finalists: number of combinations to train with all seeds.

    Returns:
        the contents of ``combinations.json``.

    Raises:
        InputError: as :func:`.compare.compare`, for an unknown metric, for fewer than one finalist, or if the configs
            are not for the rendered dataset.
    """
    start = time.monotonic()
    if finalists < 1:
        raise InputError(f"--finalists is {finalists}; it must be 1 or more.")
    if metric not in METRICS:
        raise InputError(f"--metric: {metric!r}; valid: {', '.join(METRICS)}.")
    output, overrides = experiment.output, tuple(experiment.overrides)
    table, files, keys = all_methods(list(experiment.methods), experiment.configs, overrides)
    table = {key: table[key] for key in choose_methods(keys, table)}
    seeds, (search_seed,) = check_seeds(experiment.seeds), check_seeds([search_seed])
    check_overrides(overrides)
    with only_job_in(output, "--output"):
        split, images = search_split(load_config(files[next(iter(table))], overrides))
        combinations = Combinations(table, files, output, overrides, search_seed, split)
        singles = comparison_runs(table, files, seeds, output, overrides)
        scores = _Search(combinations, experiment, metric).scores()
        best = [c for c in sorted(scores, key=lambda c: -_value(scores[c], metric)) if not combinations.method(c)]
        best = best[:finalists]
        finals = {(c, seed): combinations.run(c, seed) for c in best for seed in seeds}
        chosen = [*singles.values(), *finals.values()]
        experiment.run_all(chosen, [*chosen, *combinations.runs()])
        of_methods = statistics_table({key: [singles[key, seed].results() for seed in seeds] for key in table})
        of_best = statistics_table({c.key: [finals[c, seed].results() for seed in seeds] for c in best})
        content = {
            "search": {c.key: _metrics(scores[c]) for c in scores},
            "methods": of_methods,
            "combinations": compared_with_all(of_best, of_methods),
            "search_seed": search_seed,
            "seeds": list(seeds),
            "metric": metric,
        }
        titles = {c.key: combinations.title(c) for c in scores} | full_titles(table)
        minutes = (time.monotonic() - start) / 60
        last_line = f"Made by `{experiment.command or 'search_combinations'}` in {minutes:.1f} minutes."
        _write(content, combinations_page(content, titles, images, last_line), output)
        return content


def _write(content: dict, page: str, output: Path) -> None:
    write_text(output / PAGE, page)
    write_json(output / TABLE, content, indent=1)
    print_text(f"\n{page}\nThe page and {TABLE} are in {output}/")


class _Search:
    """The ranking of combinations on the search split."""

    def __init__(self, combinations: Combinations, experiment: Experiment, metric: str):
        self._combinations, self._experiment, self._metric = combinations, experiment, metric
        self._scores: dict[Combination, dict] = {}

    def scores(self) -> dict[Combination, dict]:
        """{combination: its results on the search split}, in the order in which they were tried."""
        parts = self._combinations
        if missing := parts.unknown_samplers():
            print(f"Search without {', '.join(missing)}: --configs has no config of that method", flush=True)
        self._rank(parts.trained())
        self._rank(parts.with_samplers(self._best()))
        self._rank(parts.with_second_stages(self._best()))
        self._rank(parts.with_calibrations(self._best()))
        return self._scores

    def _best(self) -> list[Combination]:
        return sorted(self._scores, key=lambda c: -_value(self._scores[c], self._metric))[:KEPT]

    def _rank(self, new: list[Combination]) -> None:
        runs = {c: self._combinations.search_run(c) for c in new}
        if not runs:
            return
        print(f"Search: {len(runs)} combinations, {', '.join(c.key for c in runs)}", flush=True)
        self._experiment.run_all(list(runs.values()), self._combinations.runs())
        self._scores |= {c: run.results() for c, run in runs.items()}


def search_split(cfg) -> tuple[list[str], int]:
    """
    Render the split of the search: validation images with the next seed, and thus no image of the reported split.

    Its annotation file has no frequency groups, so that they are those of the training set: another seed has other
    numbers of training images. It is in the rendered dataset and not in the folder of the comparison, which can then be
    moved.

    Args:
        cfg: config of the comparison.

    Returns:
        ``KEY VALUE`` pairs that select it for evaluation; its number of images.

    Raises:
        InputError: if the config is not for the rendered dataset.
    """
    if not uses_rendered(cfg):
        raise InputError("The search needs a dataset to render; choose --configs of the rendered dataset.")
    cfg = cfg.clone()
    cfg.DATASETS.RENDERED.SEED += 1
    if cfg.DATASETS.RENDERED.ROOT:
        cfg.DATASETS.RENDERED.ROOT += f"_{SEARCH}"
    root = render_dataset(rendered_spec(cfg), rendered_root(cfg))
    content = json.loads(annotation_file(root, "val").read_text(encoding="utf-8"))
    for category in content["categories"]:
        del category["frequency"]
    path = annotation_file(root, "val").with_name(f"{SEARCH}.json")
    if not path.exists():
        write_json(path, content)
    name = f"DATASETS.CUSTOM.{SEARCH}"
    words = ["DATASETS.TEST", f"('{SEARCH}',)", f"{name}.JSON", str(path), f"{name}.IMAGES", str(root)]
    return words, len(content["images"])


def _metrics(results: dict) -> dict[str, float | None]:
    return {name: results.get(task, {}).get(metric) for name, (task, metric) in METRICS.items()}


def _value(results: dict, metric: str) -> float:
    return or_lowest(_metrics(results)[metric])
