"""The command ``evaluate``: evaluation of a checkpoint or a results file."""

from __future__ import annotations

import argparse

from ..console.command_line import command_line
from .parsers import program
from .train import argument_parser, start

DESCRIPTION = """\
Evaluate a checkpoint on DATASETS.TEST by the LVIS rules, or a results file without a model.

    %(prog)s --config-file r50_balanced_sigmoid --weights output/r50_balanced_sigmoid/model_final.pth
    %(prog)s --config-file r50_balanced_sigmoid --predictions results.json

Results, log and config are written to OUTPUT_DIR/evaluation.
"""
_HELP = {
    "resume": argparse.SUPPRESS,
    "eval_only": argparse.SUPPRESS,
    "allow_missing": argparse.SUPPRESS,
    "predictions": "evaluate a results file, JSON or zip, without a model",
}


@command_line
def main(arguments: list[str] | None = None) -> None:
    args = _parser().parse_args(arguments)
    if args.weights:
        args.opts = [*args.opts, "MODEL.WEIGHTS", args.weights]
    start(args)


def _parser() -> argparse.ArgumentParser:
    parser = argument_parser()
    parser.prog, parser.description, parser.epilog = program("evaluate"), DESCRIPTION, None
    parser.set_defaults(eval_only=True)
    for action in parser._actions:
        action.help = _HELP.get(action.dest, action.help)
    parser.add_argument("--weights", metavar="FILE", help="checkpoint to evaluate; short for MODEL.WEIGHTS FILE")
    return parser
