"""The command ``analyze-results``: AP by error type, category and size."""

from __future__ import annotations

import argparse

from ..analysis import Analysis, Options, analyze_results, compare_results, comparison_text, summary
from ..analysis.bootstrap import SAMPLES
from ..analysis.compare import compared_path
from ..analysis.sources import results_path
from ..console.command_line import command_line, log_to_screen
from ..console.printing import print_text
from ..utils.errors import InputError
from ..utils.storage import check_writable
from .dataset_of_results import add_dataset_arguments, dataset_of_results
from .parsers import DETECTION_OVERRIDES, new_parser

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
        check_writable(args.output, "--output")
    annotations = dataset_of_results(args, results).annotations
    output = args.output or None
    if args.compare:
        comparison = compare_results(results, compared_with, annotations, options, output, _show)
        print_text(f"\n{comparison_text(comparison)}")
    else:
        _show(analyze_results(results, annotations, options, output))


def _show(analysis: Analysis) -> None:
    print_text(summary(analysis))


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("analyze-results", DESCRIPTION)
    add = parser.add_argument
    add("results", metavar="RESULTS", help="results file, stored detections, or folder of a run")
    add_dataset_arguments(parser)
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
