"""The command ``evaluate``: ``train --eval-only`` under its own name."""

from __future__ import annotations

import argparse
import sys

from ..console.command_line import command_line
from ..engine import main as train_main
from ..engine.arguments import argument_parser
from .parsers import CONFIG_FILE, OVERRIDES, program

DESCRIPTION = """\
Evaluate a checkpoint on DATASETS.TEST by the LVIS rules, or a results file without a model.

    %(prog)s --config-file r50_balanced_sigmoid --weights output/r50_balanced_sigmoid/model_final.pth
    %(prog)s --config-file r50_balanced_sigmoid --predictions results.json

Results, log and config are written to OUTPUT_DIR/evaluation.
"""


def main(arguments: list[str] | None = None) -> int:
    """
    Args:
        arguments: command line without the program's name; None: ``sys.argv``.

    Returns:
        the exit status.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    args = parser().parse_args(words)
    overrides = [*args.opts, *(["MODEL.WEIGHTS", args.weights] if args.weights else [])]
    return train_main([*_options(words, args), "--eval-only", *overrides])


def parser() -> argparse.ArgumentParser:
    made = argument_parser()
