#!/usr/bin/env python
"""
How long is a data set's tail? Classes, groups, repeat factors and shifts of logits, as a table, JSON and plot.

    tools/analyze_dataset.py lvis_v1_train                       # from Detectron2's metadata: no files needed
    tools/analyze_dataset.py mine/train.json --json prior.json --plot tail.png
    tools/analyze_dataset.py my_train --config-file mine.yaml    # a data set of that config

Table and plot show what training adds to a class's logit: minus Balanced Sigmoid's offset, plus Balanced Softmax's.
The JSON is a class prior: MODEL.CLASS_PRIOR.FILE prior.json trains by it. Each class has "group", "frequency",
"repeat_factor", "offset" (each method's own) and "logit_shift" (what is added, as in the table) beside its counts.
Images without objects don't count, as they are not trained on, unless DATALOADER.FILTER_EMPTY_ANNOTATIONS is False.
With MODEL.CLASS_PRIOR.SAMPLED True, frequencies and shifts are of the images that the config's sampler shows.
"""

import argparse
import os
import sys

from balanced_lvis.config import load_config
from balanced_lvis.console.command_line import command_line
from balanced_lvis.console.printing import print_text
from balanced_lvis.data.config_datasets import prepare_dataset
from balanced_lvis.data.counting import count_classes
from balanced_lvis.data.training_prior import class_prior_of_training_sets
from balanced_lvis.experiments.dataset_analysis import analysis_tables, analyze, check_plot_file, plot_analysis
from balanced_lvis.utils.errors import InputError
from balanced_lvis.utils.io import write_json
from balanced_lvis.utils.user_paths import why_no_file


def _prior(args):
    cfg = load_config(args.config_file, args.opts)
    if os.path.isfile(args.data):
        if cfg.MODEL.CLASS_PRIOR.SAMPLED:
            raise InputError(
                f"MODEL.CLASS_PRIOR.SAMPLED is True, which needs a registered dataset, but {args.data} is a file; name "
                "the dataset under DATASETS.CUSTOM in --config-file."
            )
        return count_classes(args.data, progress=True, filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS)
    if args.data.endswith(".json"):
        raise InputError(f"{args.data} {why_no_file(args.data)}.")
    prepare_dataset(cfg, args.data)
    return class_prior_of_training_sets(cfg)


@command_line(prints_result=True)
def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="a data set's name, or an annotation file in COCO or LVIS format")
    parser.add_argument("--config-file", default="", help="the yaml that the name is from, or that renders it")
    parser.add_argument("--threshold", type=float, default=0.001, help="of repeat factors; default: 0.001, LVIS's")
    parser.add_argument("--show", type=int, default=5, help="classes to show at either end; default: 5")
    parser.add_argument("--json", metavar="FILE", help="write all of it there, as a class prior")
    parser.add_argument("--plot", metavar="FILE", help="draw it there: .png, .svg or .pdf")
    parser.add_argument("opts", nargs="*", help="KEY VALUE overrides of the config")
    args = parser.parse_intermixed_args(arguments)
    if args.plot:
        check_plot_file(args.plot)
    found = analyze(_prior(args), args.threshold)
    print_text(analysis_tables(found, max(args.show, 0)).rstrip("\n"))
    if args.json:
        write_json(args.json, found, indent=1)
    if args.plot:
        plot_analysis(found, args.plot)


if __name__ == "__main__":
    sys.exit(main())
