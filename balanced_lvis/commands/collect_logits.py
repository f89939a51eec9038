"""The command ``collect-logits``: statistics of a checkpoint's logits on training images, for the calibration LogN."""

from __future__ import annotations

import argparse
import sys

from ..calibration.base import path_next_to
from ..calibration.logit_statistics import STATISTICS_SUFFIX
from ..config import load_config
from ..console.command_line import command_line
from ..console.printing import print_text
from ..engine.logit_collection import collect_logit_statistics
from ..utils.errors import InputError
from ..utils.storage import clear_output_errors
from ..utils.text import one_line
from .overrides import parse_with_overrides
from .parsers import OVERRIDES, add_config_arguments, check_config_given, new_parser, overrides_of

DESCRIPTION = """\
Write the mean and standard deviation of the logit of each class on training images, for the calibration LogN.

    %(prog)s --config-file r50_rfs_softmax_logn
    balanced-lvis evaluate --config-file r50_rfs_softmax_logn

The statistics of model_final.pth are saved next to it as model_final.logits.json, where LogN finds them. The images
are drawn, augmented and sampled for RoIs as in training; nothing is trained. It takes one process, about as long as
the evaluation of as many images.
"""


@command_line(prints_result=True)
def main(arguments: list[str] | None = None) -> None:
    args = parse_with_overrides(_parser(), sys.argv[1:] if arguments is None else arguments)
    check_config_given(args)
    cfg = load_config(args.config_file, overrides_of(args))
    output = args.output or _next_to(cfg.MODEL.WEIGHTS)
    statistics = collect_logit_statistics(cfg, args.images, output)
    with clear_output_errors(output):
        statistics.save(output)
    mean, std = statistics.mean, statistics.std
    print_text(
        f"{len(mean):,} classes, {statistics.num_rois:,} RoIs: means {mean.min():.2f} to {mean.max():.2f}, standard "
        f"deviations {std.min():.2f} to {std.max():.2f}; saved in {one_line(output)}"
    )


def _next_to(weights: str) -> str:
    if "://" in weights:
        raise InputError(f"MODEL.WEIGHTS is {weights}, next to which nothing can be saved; name a file with --output.")
    return path_next_to(weights, STATISTICS_SUFFIX)


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("collect-logits", DESCRIPTION)
    add = parser.add_argument
    add_config_arguments(parser, "config of the checkpoint")
    add("--output", metavar="FILE", default="", help="JSON file to write (default: next to MODEL.WEIGHTS)")
    add("--images", type=int, default=0, help="number of training images (default: one pass over the training set)")
    add("opts", nargs=argparse.REMAINDER, help=f"{OVERRIDES}, such as MODEL.WEIGHTS")
    return parser
