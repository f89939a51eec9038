"""The command ``render``: rendering of a synthetic long-tailed dataset."""

from __future__ import annotations

import argparse

from ..config import load_config
from ..console.command_line import command_line, log_to_screen
from ..console.printing import print_text
from ..data.config_datasets import rendered_root, rendered_spec
from ..data.rendered import annotation_file, render_dataset
from ..experiments.example_images import draw_examples
from ..experiments.plots import check_image_file
from ..utils.errors import InputError
from .parsers import add_config_arguments, new_parser, overrides_of

DESCRIPTION = """\
Render the dataset of a config, or one with given parameters, without training.

    %(prog)s --config-file quick_start/balanced_sigmoid
    %(prog)s --config-file rendered/large/rfs --examples examples.png
    %(prog)s DATASETS.RENDERED.NUM_CLASSES 1203 DATASETS.RENDERED.ROOT datasets/rendered_lvis
"""


KEYS = "DATASETS.RENDERED."


@command_line
def main(arguments: list[str] | None = None) -> None:
    args = _parser().parse_args(arguments)
    log_to_screen()
    _check_overrides(args.opts)
    if args.examples:
        check_image_file("--examples", args.examples)
    cfg = load_config(args.config_file, overrides_of(args))
    root = render_dataset(rendered_spec(cfg), rendered_root(cfg), workers=args.workers)
    print_text(root)
    if args.examples:
        draw_examples(annotation_file(root, "train"), root, args.examples)


def _check_overrides(overrides: list[str]) -> None:
    for key in overrides[::2]:
        if not key.startswith(KEYS):
            raise InputError(f"{key} has no effect on the rendered dataset; its keys begin with {KEYS}")


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("render", DESCRIPTION)
    add = parser.add_argument
    add_config_arguments(parser, "config with DATASETS.RENDERED (default: its defaults)")
    add("--workers", type=int, help="number of processes (default: one per core, at most 8)")
    add("--examples", metavar="FILE", help="image file to draw the first training images in")
    add("opts", nargs=argparse.REMAINDER, help="KEY VALUE overrides of keys under DATASETS.RENDERED")
    return parser
