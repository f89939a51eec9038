"""The command ``replay``: repetition of a training step whose losses or gradients were not finite."""

from __future__ import annotations

import argparse

from ..console.command_line import command_line
from ..console.printing import print_text
from ..engine.diagnostics import replay
from ..utils.text import one_line
from .parsers import add_config_arguments, new_parser, overrides_of

DESCRIPTION = """\
Repeat a training step that was not finite, and show its losses, the images and the first module that caused it.

    %(prog)s output/r50_balanced_sigmoid/diagnostics/iteration_0001234_rank0.pth
"""


@command_line(prints_result=True)
def main(arguments: list[str] | None = None) -> None:
    args = _parser().parse_intermixed_args(arguments)  # overrides may follow options
    found = replay(args.file, args.config_file, overrides_of(args))
    print_text(f"iteration {found.iteration}, as recorded: {_losses(found.recorded)}")
    for losses in found.losses:
        print_text(f"repeated: {_losses(losses)}")
    for name, losses in found.alone:
        print_text(f"{one_line(name)} alone: {_losses(losses)}")
    print_text(f"first module with an output that is not finite: {found.module or 'none'}")
    for kind in ("weights", "gradients"):
        names = getattr(found, kind)
        print_text(f"{kind} that are not finite: {len(names)}{': ' if names else ''}{', '.join(names[:10])}")


def _losses(losses: dict) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in losses.items())


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("replay", DESCRIPTION)
    add = parser.add_argument
    add("file", help="step that a failed training run saved: OUTPUT_DIR/diagnostics/iteration_*_rank*.pth")
    add_config_arguments(parser, "config of the run (default: the config.yaml in its OUTPUT_DIR)")
    add("opts", nargs="*", help="KEY VALUE overrides of the config, such as MODEL.DEVICE cpu")
    return parser
