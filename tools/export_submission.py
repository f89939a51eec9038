#!/usr/bin/env python
r"""
Write the LVIS submission of a checkpoint, a mask file and a box file for the server; or check such a file.

    tools/export_submission.py --config-file configs/r50_balanced_sigmoid.yaml --num-gpus 8 \
        MODEL.WEIGHTS output/r50_balanced_sigmoid/model_final.pth

The 300 best detections of every image are written to OUTPUT/NAME_segm.json and OUTPUT/NAME_bbox.json. The same command
goes on with an export that was interrupted.

    tools/export_submission.py --validate output/submission/lvis_v1_test_dev_segm.json

tells what the server could refuse or misread in a file, JSON or zip, and exits with status 2 if there is any.

    tools/export_submission.py --validate FILE --dataset my_val --config-file mine.yaml     # a data set of your own
"""

if __name__ in ("__main__", "__mp_main__"):
    import _early_signals  # noqa: F401  before imports that take seconds

import argparse
import os
import sys
from pathlib import Path

from balanced_lvis.commands.export import CHUNK, Options, add_job_arguments, export_checkpoint
from balanced_lvis.config import load_config
from balanced_lvis.console.command_line import command_line
from balanced_lvis.console.printing import print_text
from balanced_lvis.data.config_datasets import prepare_dataset
from balanced_lvis.evaluation.submission import ImageList, annotation_file_of, export_predictions, validate_submission
from balanced_lvis.utils.errors import InputError
from balanced_lvis.utils.text import safe_file_name


@command_line
def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--validate", metavar="FILE", help="check a submission instead of writing one")
    parser.add_argument(
        "--predictions", metavar="FILE", help="take the detections of a results file, not a checkpoint's"
    )
    parser.add_argument("--strict", action="store_true", help="with --validate: warnings are errors")
    parser.add_argument("--dataset", default="lvis_v1_test_dev", metavar="NAME",
                        help="default: %(default)s; without a checkpoint, also an annotation file")  # fmt: skip
    parser.add_argument("--output", default="output/submission", metavar="FOLDER", help="default: %(default)s")
    parser.add_argument("--zip", action="store_true", help="write .json.zip files")
    parser.add_argument("--config-file", default="", metavar="FILE", help="of the checkpoint, or of the data set")
    parser.add_argument("--chunk", type=int, default=CHUNK, metavar="IMAGES",
                        help="images whose detections are saved together (default: %(default)s)")  # fmt: skip
    add_job_arguments(parser)
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE overrides of the config: MODEL.WEIGHTS FILE")
    args = parser.parse_args(arguments)
    if args.validate:
        report = validate_submission(args.validate, ImageList(_annotation_file(args)), progress=True)
        print_text(report)
        if report.problems if args.strict else report.errors:
            raise InputError(f"{args.validate} is no valid submission.")
        return
    if args.predictions:
        json_file = _annotation_file(args)
        name = Path(json_file).stem if args.dataset == json_file else args.dataset
        for written in export_predictions(
            args.predictions, ImageList(json_file), Path(args.output, safe_file_name(name)), args.zip
        ):
            print_text(written)
        return
    export_checkpoint(args, Options(args.dataset, args.output, args.zip, args.chunk))


def _annotation_file(args) -> str:
    if not os.path.isfile(args.dataset):
        prepare_dataset(load_config(args.config_file, args.opts), args.dataset)
    return annotation_file_of(args.dataset)


if __name__ == "__main__":
    sys.exit(main())
