"""Quick start: trains the sigmoid baseline and Balanced Sigmoid on the rendered dataset and compares them."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

from ..console.printing import print_text
from ..data.config_datasets import prepare_rendered, rendered_root
from ..data.rendered import annotation_file
from ..utils.io import write_json, write_text
from ..utils.job_lock import only_job_in
from ..utils.run_files import DETECTIONS, INFERENCE, PER_CATEGORY, RESULTS
from .arguments import check_overrides, check_seeds
from .example_images import draw_comparison
from .quick_start_report import comparison_table, mean_per_category, plot_ap_by_frequency, seed_statistics
from .run_processes import run_all
from .run_report import remove_report, report_runs
from .runs import Run

SUMMARY = "summary.json"
TABLE = "table.md"
FIGURES = 3
ROWS_PER_FIGURE = 4


@dataclass(frozen=True)
class Candidate:
    """
    A method to compare.

    Attributes:
        key: name of its folder and of its entry in ``summary.json``.
        title: name in tables and plots.
        config_file: its config.
        overrides: ``KEY VALUE`` pairs.
    """

    key: str
    title: str
    config_file: Path
    overrides: tuple[str, ...] = ()

    def run(self, output: Path, seed: int, overrides: tuple[str, ...]) -> Run:
        """Its training run with a seed."""
        return Run(
            f"{self.key}/seed_{seed}",
            f"{self.title} seed {seed}",
            self.config_file,
            output / self.key / f"seed_{seed}",
            (*self.overrides, *overrides, "SEED", str(seed)),
        )


def quick_start(
    candidates: list[Candidate],
    seeds: list[int],
    program: Path | None,
    output: Path,
    overrides: tuple[str, ...] | list[str] = (),
) -> dict:
    """
    Render the dataset, train and evaluate all candidates with all seeds, and write table, plots, images, and a report
    of the first seed.

    As many runs are trained at a time as there are cores; one on a GPU. A quick start that was interrupted is resumed;
    one that has finished starts from the beginning.

    Args:
        candidates: the methods to compare; two give a row of differences.
        seeds: whole numbers from 0, for training only; the dataset is the same for all.
        program: path of a program with the commands of ``balanced-lvis``; None: ``balanced-lvis`` itself.
        output: folder for the results.
        overrides: ``KEY VALUE`` pairs, for all runs.

    Returns:
        the contents of ``summary.json``: {candidate.key: {"bbox": {metric: {"mean", "std", "runs"}}, "segm": {...}},
        ..., "seeds": [...], "seconds": wall-clock seconds of this call, without the report}.

    Raises:
        InputError: if a seed is negative, an override is invalid or sets a key that differs between the runs, another
            job writes to ``output``, or a run fails, with the end of its output.
    """
    start = time.time()
    seeds = check_seeds(seeds)
    check_overrides(overrides)
    runs = {c.key: [c.run(output, seed, tuple(overrides)) for seed in seeds] for c in candidates}
    titles = {c.key: c.title for c in candidates}
    in_order = [run for group in zip(*runs.values()) for run in group]  # seed by seed
    with only_job_in(output, "--output"):
        configs = [run.config() for run in in_order]  # an invalid one is an error before anything is deleted
        print("Rendering the dataset (reused if it exists)", flush=True)
        prepare_rendered(configs[0])
        _remove_finished(in_order, output)
        print(
            f"Training {' and '.join(titles.values())} with {_count(seeds)}, then evaluating by the LVIS rules",
            flush=True,
        )
        run_all(in_order, in_order, output, program)
        results = {key: [run.load(RESULTS) for run in group] for key, group in runs.items()}
        _draw({titles[key]: group for key, group in runs.items()}, rendered_root(configs[0]), output)
        table = comparison_table({titles[key]: found for key, found in results.items()})
        write_text(output / TABLE, table)
        summary: dict = {key: seed_statistics(found) for key, found in results.items()}
        summary |= {"seeds": list(seeds), "seconds": round(time.time() - start, 1)}
        write_json(output / SUMMARY, summary, indent=1)
        print_text(f"\n{table}\n{summary['seconds']:.0f} s. Table, plots and {SUMMARY} are in {output}/")
        first_seed = {titles[key]: group[0] for key, group in runs.items()}
        report_runs(first_seed, output, f"{' and '.join(titles.values())}, seed {seeds[0]}")
        return summary


def _remove_finished(runs: list[Run], output: Path) -> None:
    """Remove the report, and the runs if the quick start has finished."""
    if (output / SUMMARY).exists():
        for run in runs:
            run.discard()
        (output / TABLE).unlink(missing_ok=True)
        (output / SUMMARY).unlink()
    remove_report(output)


def _count(seeds) -> str:
    return f"{len(seeds)} seeds each" if len(seeds) > 1 else "one seed"


def _draw(runs: dict[str, list[Run]], data_root: Path, output: Path) -> None:
    per_category = {
        title: mean_per_category([run.load(INFERENCE, PER_CATEGORY) for run in group]) for title, group in runs.items()
    }
    for task, name in (("bbox", "box"), ("segm", "mask")):
        plot_ap_by_frequency(per_category, output / f"{name}_ap_by_training_images.png", task)
    first = {title: group[0] for title, group in runs.items()}
    predictions = {title: run.load(INFERENCE, DETECTIONS) for title, run in first.items()}
    annotations = annotation_file(data_root, "val")
    image_ids = _images_with_rare_categories(annotations)
    for index in range(FIGURES):
        chosen = image_ids[index * ROWS_PER_FIGURE :][:ROWS_PER_FIGURE]
        if chosen:
            draw_comparison(annotations, data_root, predictions, chosen, output / f"predictions_{index + 1}.png")


def _images_with_rare_categories(annotations: Path) -> list[int]:
    """The first ones in the file: they show the tail, where methods differ, and are not hand-picked."""
    content = json.loads(annotations.read_text(encoding="utf-8"))
    rare = {c["id"] for c in content["categories"] if c["frequency"] == "r"}
    with_rare = {a["image_id"] for a in content["annotations"] if a["category_id"] in rare}
    return [image["id"] for image in content["images"] if image["id"] in with_rare]
