"""The command ``analyze-results``: AP by error type, category and size."""

from __future__ import annotations

import argparse
import logging
import os

from ..analysis import Analysis, Options, analyze_results, compare_results, comparison_text, summary
from ..analysis.bootstrap import SAMPLES
from ..analysis.compare import compared_path
from ..analysis.sources import config_of_run, results_path
from ..config import load_config
from ..console.command_line import command_line, log_to_screen
from ..console.printing import print_text
from ..data.config_datasets import prepare_dataset
from ..data.registered_files import evaluation_file_of
from ..evaluation.submission import annotation_file_of
from ..utils.errors import InputError
from ..utils.storage import check_writable
from .parsers import DETECTION_OVERRIDES, add_config_arguments, new_parser, overrides_of

logger = logging.getLogger(__name__)

DESCRIPTION = """\
Break AP down by error type, category and size of objects, by the rules of LVIS. Also shown are AP-fixed, AP-pool and
boundary AP, confused categories, calibration, thresholds, and the uncertainty of AP.

    %(prog)s output/r50_balanced_sigmoid                     # after training or evaluation
    %(prog)s results.json --dataset lvis_v1_val --output analysis
    %(prog)s output/balanced --compare output/rfs            # AP of the first minus AP of the second, with its interval

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
    results = results_path(args.results)
    compared_with = compared_path(args.compare) if args.compare else ""
    if args.output:
        check_writable(args.output)
    annotations = _annotations(args, results)
    output = args.output or None
    if args.compare:
        comparison = compare_results(results, compared_with, annotations, options, output, _show)
        print_text(f"\n{comparison_text(comparison)}")
    else:
        _show(analyze_results(results, annotations, options, output))


def _show(analysis: Analysis) -> None:
    print_text(summary(analysis))


def _annotations(args: argparse.Namespace, results: str) -> str:
    """Path of the annotation file, in LVIS format."""
    if args.dataset and os.path.isfile(args.dataset):
        return args.dataset
    config = args.config_file or config_of_run(results)
    if not args.dataset and not config:
        raise InputError(
            f"{results} is not in the folder of a run with a config.yaml that names its dataset; add --dataset, with "
            "the name of a registered dataset or the path of an annotation file."
        )
    cfg = load_config(config or "", overrides_of(args))
    if not args.dataset and len(cfg.DATASETS.TEST) != 1:
        raise InputError(f"DATASETS.TEST of {config} is {tuple(cfg.DATASETS.TEST)}; choose one dataset with --dataset.")
    name = args.dataset or cfg.DATASETS.TEST[0]
    prepare_dataset(cfg, name)
    annotation_file_of(name)
    path = evaluation_file_of(name)
    logger.info("Dataset %s%s: %s", name, f" of {config}" if config else "", path)
    return path


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("analyze-results", DESCRIPTION)
    add = parser.add_argument
    add("results", metavar="RESULTS", help="results file, stored detections, or folder of a run")
    add("--dataset", metavar="NAME_OR_JSON",
        help="registered dataset or annotation file (default: DATASETS.TEST of the run's config.yaml)")  # fmt: skip
    add_config_arguments(parser, "config that defines the dataset (default: config.yaml of the run)", default="")
    add("--output", metavar="FOLDER", help="write analysis.json, per_category_*.csv, thresholds.json and others here")
    add("--compare", metavar="OTHER",
        help="results of another run on the same images, or the --output of their analysis, to show the difference of "
        "AP: RESULTS minus OTHER (first minus second)")  # fmt: skip
    add("--threshold", type=float, default=Options.score_threshold,
        help="score threshold of precision and recall per category (default: %(default)s)")  # fmt: skip
    add("--samples", type=int, default=SAMPLES, help="bootstrap resamples; 0 for none (default: %(default)s)")
    add("--seed", type=int, default=0, help="seed of the bootstrap (default: %(default)s)")
    add("opts", nargs="*", help=DETECTION_OVERRIDES)
    return parser
