"""The command ``analyze-dataset``: the class frequencies of a dataset."""

from __future__ import annotations

import argparse
import os

from ..config import load_config
from ..console.command_line import command_line
from ..console.printing import print_text
from ..data.annotations.counting import count_classes
from ..data.config_datasets import prepare_dataset
from ..data.training_prior import class_prior_of_training_sets
from ..experiments.dataset_analysis import analysis_tables, analyze, plot_analysis
from ..experiments.plots import check_image_file
from ..utils.errors import InputError
from ..utils.io import write_json
from ..utils.user_paths import why_no_file
from .parsers import DETECTION_OVERRIDES, add_config_arguments, new_parser, overrides_of

DESCRIPTION = """\
Show the class frequencies of a dataset: groups, repeat factors and logit shifts, as a table, JSON and plot.

    %(prog)s lvis_v1_train                       # from Detectron2's metadata, without any files
    %(prog)s mine/train.json --json prior.json --plot tail.png
    %(prog)s my_train --config-file mine.yaml    # a dataset of this config

Table and plot show what training adds to the logit of each class: minus the offset of Balanced Sigmoid, plus the shift
of Balanced Softmax. The JSON file is a class prior for MODEL.CLASS_PRIOR.FILE. Besides the counts of each class, it has
"group", "frequency", "repeat_factor", "offset" (as each method defines it) and "logit_shift" (what is added, as in the
table). Images without objects are not counted, because training leaves them out, unless
DATALOADER.FILTER_EMPTY_ANNOTATIONS is False. With MODEL.CLASS_PRIOR.SAMPLED True, frequencies and shifts are those of
the images that the sampler of the config draws. --boxes adds the fractal dimension of each class, which the calibration
fracal needs: how evenly the centres of its boxes are spread over the image, from 1 to 2.
"""


@command_line(prints_result=True)
def main(arguments: list[str] | None = None) -> None:
    args = _parser().parse_intermixed_args(arguments)
    if args.show < 0:
        raise InputError(f"--show is {args.show}; it must be 0 or more.")
    if args.plot:
        check_image_file("--plot", args.plot)
    found = analyze(_prior(args), args.threshold)
    print_text(analysis_tables(found, args.show).rstrip("\n"))
    if args.json:
        write_json(args.json, found, indent=1)
    if args.plot:
        plot_analysis(found, args.plot)


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("analyze-dataset", DESCRIPTION)
    add = parser.add_argument
    add("data", help="name of a dataset, or an annotation file in COCO or LVIS format")
    add_config_arguments(parser, "config that defines the dataset")
    add("--threshold", type=float, default=0.001, help="threshold of the repeat factors (default: 0.001, as for LVIS)")
    add(
        "--boxes",
        action="store_true",
        help="add the fractal dimension of each class, from the boxes of the annotations",
    )
    add("--show", type=int, default=5, help="number of classes to show at each end of the table (default: 5)")
    add("--json", metavar="FILE", help="write the analysis to this JSON file, a class prior for MODEL.CLASS_PRIOR.FILE")
    add("--plot", metavar="FILE", help="write a plot to this file: .png, .svg or .pdf")
    add("opts", nargs="*", help=DETECTION_OVERRIDES)
    return parser


def _prior(args: argparse.Namespace):
    cfg = load_config(args.config_file, overrides_of(args))
    if os.path.isfile(args.data):
        if cfg.MODEL.CLASS_PRIOR.SAMPLED:
            raise InputError(
                f"MODEL.CLASS_PRIOR.SAMPLED is True, which needs a registered dataset, but {args.data} is a file; name "
                "the dataset under DATASETS.CUSTOM in --config-file."
            )
        return count_classes(args.data, True, cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS, args.boxes)
    if args.data.endswith(".json"):
        raise InputError(f"{args.data} {why_no_file(args.data)}.")
    prepare_dataset(cfg, args.data)
    return class_prior_of_training_sets(cfg, args.boxes)
