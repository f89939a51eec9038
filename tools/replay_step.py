#!/usr/bin/env python
"""
Repeat a training step that was not finite: which losses, which image, which module.

    tools/replay_step.py output/r50_balanced_sigmoid/diagnostics/iteration_0001234_rank0.pth
"""

import argparse
import sys

from balanced_lvis.console.command_line import command_line
from balanced_lvis.console.printing import print_text
from balanced_lvis.engine.diagnostics import replay
from balanced_lvis.utils.text import one_line


def _losses(losses: dict) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in losses.items())


@command_line(prints_result=True)
def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", help="saved where a training stopped, OUTPUT_DIR/diagnostics/iteration_*_rank*.pth")
    parser.add_argument("--config-file", default="", help="of the run; otherwise the config.yaml in its OUTPUT_DIR")
    parser.add_argument("opts", nargs="*", help="KEY VALUE overrides of the config, such as MODEL.DEVICE cpu")
    args = parser.parse_intermixed_args(arguments)  # overrides after options
    found = replay(args.file, args.config_file, args.opts)
    print_text(f"iteration {found.iteration}, as recorded: {_losses(found.recorded)}")
    for losses in found.losses:
        print_text(f"repeated: {_losses(losses)}")
    for name, losses in found.alone:
        print_text(f"{one_line(name)} alone: {_losses(losses)}")
    print_text(f"first module with an output that is not finite: {found.module or 'none'}")
    for kind in ("weights", "gradients"):
        names = getattr(found, kind)
        print_text(f"{kind} that are not finite: {len(names)}{': ' if names else ''}{', '.join(names[:10])}")


if __name__ == "__main__":
    sys.exit(main())
