"""The command ``analyze-results``: why AP is what it is."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass

import numpy as np

from ..analysis.analyze import BOOTSTRAPPED, Matches, Options, analyze_detections
from ..analysis.bootstrap import SAMPLES, paired_difference
from ..analysis.export import write_files
from ..analysis.model import Analysis, Interval
from ..analysis.sources import config_of_run, opened
from ..analysis.summary import comparison_text, summary
from ..config import load_config
from ..console.command_line import command_line, log_to_screen
from ..console.printing import print_text
from ..data.config_datasets import prepare_dataset
from ..data.registered_files import evaluation_file_of
from ..evaluation.lvis_api import LVIS
from ..evaluation.submission import annotation_file_of
from ..utils.errors import InputError
from ..utils.io import write_json
from ..utils.storage import check_writable
from .parsers import OVERRIDES, add_config_arguments, new_parser, overrides_of

DESCRIPTION = """\
Analyse detections by the rules of LVIS: AP, AP-fixed, AP-pool and boundary AP, error types, confused categories,
calibration, thresholds, and the uncertainty of AP.

    %(prog)s output/r50_balanced_sigmoid                     # after training or evaluation
    %(prog)s results.json --dataset lvis_v1_val --output analysis
    %(prog)s output/balanced --compare output/rfs            # difference of AP, with its interval

RESULTS is a results file in LVIS format (JSON or zip), stored detections, or the folder of a run, whose config names
the dataset. --output writes all numbers as JSON, CSV and NumPy arrays.
"""


@command_line(prints_result=True)
def main(arguments: list[str] | None = None) -> None:
    args = _parser().parse_intermixed_args(arguments)
    log_to_screen()
    options = Options(args.threshold, args.samples, args.seed)
    options.check()
    if args.compare and not args.samples:
        raise InputError("--compare needs resamples; set --samples to 2 or more.")
    if args.output:
        check_writable(args.output)
    annotations = _annotations(args)
    found = _analyze(args.results, annotations, options)
    if args.output:
        write_files(found.analysis, found.matches, args.output)
    text = summary(found.analysis)
    if args.compare:
        other = _analyze(args.compare, annotations, options)
        differences = differences_of(found, other)
        text = f"{text}\n\n{comparison_text(differences, options.level)}"
        if args.output:
            content = {task: {name: vars(value) for name, value in own.items()} for task, own in differences.items()}
            write_json(
                os.path.join(args.output, "comparison.json"),
                {"results": args.results, "compared_with": args.compare, "tasks": content},
                indent=1,
            )
    print_text(text)


@dataclass(frozen=True)
class _Found:
    analysis: Analysis
    matches: dict[str, Matches]

    def value(self, task: str, metric: str) -> tuple[float, np.ndarray]:
        """A metric, and its values in the resamples."""
        resamples = self.matches[task].resamples[:, BOOTSTRAPPED.index(metric)]
        return self.analysis.tasks[task].metrics[metric], resamples


def _analyze(results: str, annotations: str, options: Options) -> _Found:
    lvis_gt = LVIS(annotations)
    with opened(results, annotations, lvis_gt) as found:
        return _Found(*analyze_detections(lvis_gt, found.detections, found.tasks, options, found.path, annotations))


def differences_of(first: _Found, second: _Found) -> dict[str, dict[str, Interval]]:
    """
    Args:
        first, second: analyses of the same images, with the same seed and number of resamples.

    Returns:
        by task and metric, the difference with its interval.
    """
    result = {}
    for task in [task for task in first.matches if task in second.matches]:
        result[task] = {
            name: paired_difference(first.value(task, name), second.value(task, name)) for name in BOOTSTRAPPED
        }
    return result


def _annotations(args: argparse.Namespace) -> str:
    """Path of the annotation file, in LVIS format."""
    if args.dataset and os.path.isfile(args.dataset):
        return args.dataset
    config = args.config_file or config_of_run(args.results)
    if not args.dataset and not config:
        raise InputError(
            f"{args.results} has no config.yaml that names its dataset; add --dataset, with the name of a registered "
            "dataset or the path of an annotation file."
        )
    cfg = load_config(config or "", overrides_of(args))
    if not args.dataset and len(cfg.DATASETS.TEST) != 1:
        raise InputError(f"DATASETS.TEST of {config} is {tuple(cfg.DATASETS.TEST)}; choose one dataset with --dataset.")
    name = args.dataset or cfg.DATASETS.TEST[0]
    prepare_dataset(cfg, name)
    annotation_file_of(name)
    return evaluation_file_of(name)


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("analyze-results", DESCRIPTION)
    add = parser.add_argument
    add("results", metavar="RESULTS", help="results file, stored detections, or folder of a run")
    add("--dataset", metavar="NAME_OR_JSON",
        help="registered dataset or annotation file (default: DATASETS.TEST of the run's config.yaml)")  # fmt: skip
    add_config_arguments(parser, "config that defines the dataset (default: config.yaml of the run)", default="")
    add("--output", metavar="FOLDER", help="write analysis.json, per_category_*.csv, thresholds.json and others here")
    add("--compare", metavar="RESULTS", help="results of another run on the same images, to show the difference of AP")
    add("--threshold", type=float, default=Options.score_threshold,
        help="score threshold of precision and recall per category (default: %(default)s)")  # fmt: skip
    add("--samples", type=int, default=SAMPLES, help="bootstrap resamples; 0 for none (default: %(default)s)")
    add("--seed", type=int, default=0, help="seed of the bootstrap (default: %(default)s)")
    add("opts", nargs="*", help=OVERRIDES)
    return parser
