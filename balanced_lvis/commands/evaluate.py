"""The command ``evaluate``: ``train --eval-only`` with arguments of its own."""

from __future__ import annotations

import argparse

from ..engine import main as train
from ..engine.arguments import argument_parser
from .parsers import program

DESCRIPTION = """\
Evaluate a checkpoint on DATASETS.TEST by the LVIS rules, or a results file without a model.

    %(prog)s --config-file r50_balanced_sigmoid --weights output/r50_balanced_sigmoid/model_final.pth
    %(prog)s --config-file r50_balanced_sigmoid --predictions results.json

Results, log and config are written to OUTPUT_DIR/evaluation.
"""
# Arguments of ``train`` that mean nothing here.
_TRAINING_ONLY = ("resume", "eval_only", "allow_missing")


def main(arguments: list[str] | None = None) -> int:
    """
    Args:
        arguments: command line without the name of the program; None: that of ``sys.argv``.

    Returns:
        the exit status.
    """
    args = _parser().parse_args(arguments)
    words = ["--eval-only"]
    for name in ("config_file", "num_gpus", "num_machines", "machine_rank", "dist_url", "predictions"):
        value = getattr(args, name)
        words += [f"--{name.replace('_', '-')}={value}"] if value not in (None, "") else []
    weights = ["MODEL.WEIGHTS", args.weights] if args.weights else []
    return train([*words, *args.opts, *weights])


def _parser() -> argparse.ArgumentParser:
    parser = argument_parser()
    parser.prog, parser.description, parser.epilog = program("evaluate"), DESCRIPTION, None
    for action in parser._actions:
        if action.dest in _TRAINING_ONLY:
            action.help = argparse.SUPPRESS
    parser.add_argument("--weights", metavar="FILE", help="checkpoint to evaluate; the same as MODEL.WEIGHTS FILE")
    return parser
