"""The command ``render``: rendering of a synthetic long-tailed dataset."""

from __future__ import annotations

import argparse

from ..config import load_config
from ..console.command_line import command_line, log_to_screen
from ..console.printing import print_text
from ..data.config_datasets import rendered_root, rendered_spec
from ..data.rendered import render_dataset
from .parsers import add_config_arguments, new_parser, overrides_of

DESCRIPTION = """\
Render the dataset of a config, or one with given parameters, without training.

    %(prog)s --config-file quick_start/balanced_sigmoid
    %(prog)s DATASETS.RENDERED.NUM_CLASSES 1203 DATASETS.RENDERED.ROOT datasets/rendered_large
"""


@command_line
def main(arguments: list[str] | None = None) -> None:
    args = _parser().parse_args(arguments)
    log_to_screen()
    cfg = load_config(args.config_file, overrides_of(args))
    print_text(render_dataset(rendered_spec(cfg), rendered_root(cfg), workers=args.workers))


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("render", DESCRIPTION)
    add = parser.add_argument
    add_config_arguments(parser, "config with DATASETS.RENDERED (default: its defaults)")
    add("--workers", type=int, help="number of processes (default: one per core, at most 8)")
    add("opts", nargs=argparse.REMAINDER, help="KEY VALUE overrides of keys under DATASETS.RENDERED")
    return parser
