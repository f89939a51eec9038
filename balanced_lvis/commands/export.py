"""The command ``export``: writing and validation of LVIS submissions."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from ..config import load_config
from ..console.command_line import command_line
from ..console.printing import print_text
from ..data.config_datasets import prepare_dataset
from ..evaluation.submission import ImageList, annotation_file_of, export_predictions, validate_submission
from ..utils.errors import InputError
from ..utils.text import safe_file_name
from .export_checkpoint import CHUNK, Options, export_checkpoint
from .jobs import add_job_arguments
from .parsers import add_config_arguments, check_config_given, new_parser, overrides_of

DESCRIPTION = """\
Write the LVIS submission of a checkpoint, which is a mask file and a box file for the server; or validate such a file.

    %(prog)s --config-file r50_balanced_sigmoid --num-gpus 8 \\
        MODEL.WEIGHTS output/r50_balanced_sigmoid/model_final.pth

The 300 best detections of every image are written to OUTPUT/NAME_segm.json and OUTPUT/NAME_bbox.json. The same command
resumes an export that was interrupted.

    %(prog)s --validate output/submission/lvis_v1_test_dev_segm.json

lists everything in a JSON or zip file that the server could refuse or misread. The exit status is 2 if there is any.

    %(prog)s --validate FILE --dataset my_val --config-file mine.yaml     # for a custom dataset
"""


@command_line
def main(arguments: list[str] | None = None) -> None:
    args = _parser().parse_args(arguments)
    args.opts = overrides_of(args)
    if args.validate:
        _validate(args)
    elif args.predictions:
        _export_predictions(args)
    else:
        check_config_given(args)
        export_checkpoint(args, Options(args.dataset, args.output, args.zip, args.chunk))


def _validate(args: argparse.Namespace) -> None:
    report = validate_submission(args.validate, ImageList(_annotation_file(args)), progress=True)
    print_text(report)
    if report.problems if args.strict else report.errors:
        raise InputError(f"--validate {args.validate} is not a valid submission; see the report above.")


def _export_predictions(args: argparse.Namespace) -> None:
    json_file = _annotation_file(args)
    name = Path(json_file).stem if args.dataset == json_file else args.dataset
    output = Path(args.output, safe_file_name(name))
    for written in export_predictions(args.predictions, ImageList(json_file), output, args.zip):
        print_text(written)


def _annotation_file(args: argparse.Namespace) -> str:
    if not os.path.isfile(args.dataset):
        prepare_dataset(load_config(args.config_file, args.opts), args.dataset)
    return annotation_file_of(args.dataset)


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("export", DESCRIPTION)
    add = parser.add_argument
    add("--validate", metavar="FILE", help="validate a submission instead of writing one")
    add("--predictions", metavar="FILE", help="export the detections of a results file instead of a checkpoint's")
    add("--strict", action="store_true", help="with --validate: treat warnings as errors")
    add("--dataset", default="lvis_v1_test_dev", metavar="NAME",
        help="registered dataset; with --validate or --predictions, also an annotation file "
        "(default: %(default)s)")  # fmt: skip
    add("--output", default="output/submission", metavar="FOLDER", help="folder to write to (default: %(default)s)")
    add("--zip", action="store_true", help="write .json.zip files")
    add_config_arguments(parser, "config of the checkpoint or of the dataset")
    add("--chunk", type=int, default=CHUNK, metavar="IMAGES",
        help="images per chunk; an interrupted export resumes after the last finished chunk "
        "(default: %(default)s)")  # fmt: skip
    add_job_arguments(parser)
    add("opts", nargs=argparse.REMAINDER, help="KEY VALUE overrides of the config, such as MODEL.WEIGHTS FILE")
    return parser
