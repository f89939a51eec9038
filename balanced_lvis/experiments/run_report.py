"""The report of some runs of an experiment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..analysis.sources import results_path
from ..console.printing import print_text
from ..evaluation.evaluated_dataset import evaluated_dataset
from ..report import write_report
from ..utils.errors import InputError
from ..utils.storage import clear_system_errors
from .runs import Run

REPORT = "report.html"


def remove_report(output: Path) -> None:
    """Remove an earlier report, which would not show the results that an experiment is about to write."""
    (output / REPORT).unlink(missing_ok=True)


def report_runs(runs: Mapping[str, Run], output: Path, title: str) -> Path | None:
    """
    Write ``report.html`` about finished runs and print its path.

    Args:
        runs: {name: run}; differences are those to the first.
        output: folder of the experiment.
        title: of the page.

    Returns:
        path of the report; None, after a warning, if it can't be written: the other results of an experiment don't
        depend on it.
    """
    path = output / REPORT
    try:
        results = [results_path(run.folder) for run in runs.values()]
        cfg = next(iter(runs.values())).config()
        dataset = evaluated_dataset(cfg, cfg.DATASETS.TEST[0])
        with clear_system_errors():
            write_report(
                results, dataset.annotations, path, names=list(runs), image_root=dataset.image_root, title=title
            )
    except InputError as error:  # with StorageError
        print_text(f"Warning: no {REPORT} is written: {error}")
        return None
    print_text(f"Report of {' and '.join(runs)}: {path}")
    return path
