"""Quick start: trains the sigmoid baseline and Balanced Sigmoid on the rendered dataset and compares them."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

from ..console.printing import print_text
from ..data.config_datasets import prepare_rendered, rendered_root
from ..data.rendered import annotation_file
from ..utils.io import write_json
from ..utils.job_lock import only_job_in
from .example_images import draw_comparison
from .quick_start_report import comparison_table, plot_ap_by_frequency
from .runs import RESULTS, Run, train_all

SUMMARY = "summary.json"
FIGURES = 3
ROWS_PER_FIGURE = 4


def quick_start(runs: list[Run], train_net: Path | None, output: Path, overrides: list[str]) -> dict:
    """
    Render the dataset, train and evaluate all runs, and write table, plots, images and ``summary.json`` to ``output``.

    The runs train side by side, each on its share of the cores. A quick start that was interrupted is resumed; one that
    has finished starts from the beginning.

    Args:
        runs: the runs to compare; two give a row of differences.
        train_net: path of a script like ``tools/train_net.py``; None: ``balanced-lvis train``.
        output: folder for the results.
        overrides: ``KEY VALUE`` pairs, for all runs.

    Returns:
        the contents of ``summary.json``: {run.key: {"bbox": {...}, "segm": {...}}, ..., "seconds": wall-clock seconds
        of this call}.

    Raises:
        InputError: if a run fails, with the end of its output, or if another job writes to ``output``.
    """
    start = time.time()
    with only_job_in(output, "--output"):
        if (output / SUMMARY).exists():
            (output / SUMMARY).unlink()
            for run in runs:
                run.discard()
        runs = [replace(run, overrides=(*run.overrides, *overrides)) for run in runs]
        for run in runs:
            run.discard_other(run.config())
        cfg = runs[0].config()
        print("Rendering the dataset (reused if it exists)", flush=True)
        prepare_rendered(cfg)
        print(f"Training {' and '.join(run.title for run in runs)} side by side, then evaluating with the LVIS API")
        train_all(runs, train_net, jobs=len(runs))
        summary = {run.key: run.load(RESULTS) for run in runs}
        _draw(runs, rendered_root(cfg), output)
        table = comparison_table({run.title: summary[run.key] for run in runs})
        (output / "table.md").write_text(table, encoding="utf-8")
        summary["seconds"] = round(time.time() - start, 1)
        write_json(output / SUMMARY, summary, indent=1)
        print_text(f"\n{table}\n{summary['seconds']:.0f} s. Table, plots, images and {SUMMARY} are in {output}/")
        return summary


def _draw(runs, data_root: Path, output: Path) -> None:
    per_category = {run.title: run.load("inference", "per_category_ap.json") for run in runs}
    for task, name in (("bbox", "box"), ("segm", "mask")):
        plot_ap_by_frequency(per_category, output / f"{name}_ap_by_training_images.png", task)
    predictions = {run.title: run.load("inference", "lvis_instances_results.json") for run in runs}
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
