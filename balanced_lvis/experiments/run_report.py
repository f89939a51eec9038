"""The report of some runs of an experiment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..analysis.sources import results_path
from ..console.printing import print_text
from ..evaluation.evaluated_dataset import evaluated_dataset
from ..report import write_report
from ..utils.errors import InputError
from .runs import Run

REPORT = "report.html"


def report_runs(runs: Mapping[str, Run], output: Path, title: str) -> Path | None:
    """
    Write ``report.html`` about finished runs and print its path.

    Args:
        runs: {name: run}; differences are those to the first.
        output: folder of the experiment.
        title: of the page.

    Returns:
        path of the report; None, after a line that says why, if the detections of a run no longer exist or its config
        evaluates on several datasets.
    """
    try:
        results = [results_path(run.folder) for run in runs.values()]
    except InputError as error:
        print_text(f"No {REPORT} is written: {error}")
        return None
    cfg = next(iter(runs.values())).config()
    dataset = evaluated_dataset(cfg, cfg.DATASETS.TEST[0])
    path = output / REPORT
    write_report(results, dataset.annotations, path, names=list(runs), image_root=dataset.image_root, title=title)
    print_text(f"Report of {' and '.join(runs)}: {path}")
    return path
