"""The command ``report``: one HTML file about one or more runs."""

from __future__ import annotations

import argparse

from ..analysis import Options
from ..analysis.bootstrap import SAMPLES
from ..analysis.sources import results_path
from ..console.command_line import command_line, log_to_screen
from ..console.printing import print_text
from ..report import MAX_MEGABYTES, TITLE, write_report
from ..utils.storage import check_output
from .dataset_of_results import add_dataset_arguments, dataset_of_results
from .parsers import OVERRIDES, new_parser

DESCRIPTION = """\
Write a report as one HTML file, which opens in a browser without a network: AP with intervals, AP against training
images, error types, calibration, training curves, all categories, and images with ground truth and detections.

    %(prog)s output/r50_balanced_sigmoid --output report.html          # after training or evaluation
    %(prog)s output/rfs output/balanced --output report.html           # two runs; differences are those to the first
    %(prog)s results.json --dataset lvis_v1_val --output report.html
    %(prog)s results.json --dataset val.json --image-root images/ --output report.html

A RUN is the folder of a run, whose config names the dataset, a results file in LVIS format (JSON or zip), or stored
detections.
"""


@command_line
def main(arguments: list[str] | None = None) -> None:
    args = _parser().parse_args(arguments)
    log_to_screen()
    results = [results_path(run) for run in args.runs]
    check_output(args.output)
    dataset = dataset_of_results(args, results[0])
    report = write_report(
        args.runs,
        dataset.annotations,
        args.output,
        names=args.names,
        image_root=args.image_root or dataset.image_root,
        options=Options(samples=args.samples, seed=args.seed),
        max_megabytes=args.max_megabytes,
        title=args.title,
    )
    print_text(f"Report: {report.path} ({report.size / 1e6:.1f} MB)")


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("report", DESCRIPTION)
    add = parser.add_argument
    add("runs", nargs="+", metavar="RUN", help="folder of a run, results file, or stored detections")
    add("--output", metavar="HTML", default="report.html", help="file to write (default: %(default)s)")
    add("--names", nargs="+", metavar="NAME", help="name of each run (default: what differs in their paths)")
    add("--title", default=TITLE, help="title of the page (default: %(default)s)")
    add_dataset_arguments(parser)
    add("--image-root", metavar="FOLDER",
        help="folder of the images (default: that of the dataset); without images, there are no crops")  # fmt: skip
    add("--max-megabytes", type=float, default=MAX_MEGABYTES,
        help="size limit of the file; crops are left out to stay below it (default: %(default)g)")  # fmt: skip
    add("--samples", type=int, default=SAMPLES, help="bootstrap resamples (default: %(default)s)")
    add("--seed", type=int, default=0, help="seed of the bootstrap (default: %(default)s)")
    add("--opts", nargs="*", default=[], metavar="WORD", help=OVERRIDES)
    return parser
