"""The command ``train-classifier``: training and evaluation of long-tailed image classification."""

from __future__ import annotations

import argparse
import os

from ..classification import evaluate, load_config, train
from ..classification.run import collect_logits
from ..config_files.imports import add_import_argument
from ..console.command_line import command_line
from ..console.run_log import log_run
from ..utils.errors import InputError
from ..utils.run_files import EVALUATION
from ..utils.storage import check_folder_name
from .parsers import OVERRIDES, YAML_FILE, check_config_given, new_parser, overrides_of

DESCRIPTION = """\
Train an image classifier on a long-tailed dataset and evaluate it on a balanced one, or evaluate a checkpoint.

    %(prog)s --config-file classification/characters/balanced_softmax
    %(prog)s --config-file classification/cifar10/ldam_drw --resume
    %(prog)s --config-file classification/characters/softmax --eval-only \\
        MODEL.WEIGHTS output/classification/characters/softmax/model_final.pth \\
        MODEL.CALIBRATION.NAME logit_adjustment

Overrides of the config come last. The model, logs and results.json are written to OUTPUT_DIR, those of --eval-only to
OUTPUT_DIR/evaluation. Needs no Detectron2. The exit status is that of `balanced-lvis train`: 75 after SIGTERM or
SIGUSR1, and --resume continues.
"""


@command_line
def main(arguments: list[str] | None = None) -> None:
    args = _parser().parse_args(arguments)
    check_config_given(args)
    if args.resume and args.eval_only:
        raise InputError("--resume continues training, and --eval-only doesn't train; leave out one of the two.")
    if args.collect_logits and (args.resume or args.eval_only):
        raise InputError("--collect-logits neither trains nor evaluates; leave out --resume and --eval-only.")
    cfg = load_config(args.config_file, overrides_of(args))
    check_folder_name(cfg.OUTPUT_DIR)
    log_run(os.path.join(cfg.OUTPUT_DIR, EVALUATION) if args.eval_only or args.collect_logits else cfg.OUTPUT_DIR)
    if args.collect_logits:
        collect_logits(cfg)
    elif args.eval_only:
        evaluate(cfg)
    else:
        train(cfg, resume=args.resume)


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("train-classifier", DESCRIPTION)
    add = parser.add_argument
    add("--config-file", default="", metavar="FILE", help=f"{YAML_FILE}, such as classification/characters/softmax")
    add_import_argument(parser)
    add("--resume", action="store_true", help="continue from the newest checkpoint in OUTPUT_DIR, if there is one")
    add("--eval-only", action="store_true", help="evaluate MODEL.WEIGHTS; results are written to OUTPUT_DIR/evaluation")
    logits = "write statistics of the logits of MODEL.WEIGHTS on training images next to it, for the calibration logn"
    add("--collect-logits", action="store_true", help=logits)
    add("opts", nargs=argparse.REMAINDER, help=OVERRIDES)
    return parser
