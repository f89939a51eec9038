"""The command line of the soak test: ``tools/soak.py`` or ``python -m soak``."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import torch

from balanced_lvis.config_files.names import config_folder
from balanced_lvis.console.command_line import command_line
from balanced_lvis.console.printing import print_text

from . import soak

DESCRIPTION = """\
Kill training runs and feed damaged files to parsers, for any duration.

    tools/soak.py --minutes 60 --json soak.json

Training runs are killed at random moments and while they write checkpoints, and their files are damaged. Each must end
bit-identical to a run that was never interrupted. The exit status is 1 if there was a failure; the files
that reproduce it are kept in --folder.
"""


@command_line
def main(arguments: list[str] | None = None) -> None:
    args = _parser().parse_args(arguments)
    torch.set_num_threads(1)  # a process must not have started threads before it forks
    folder = args.folder or Path(tempfile.mkdtemp(prefix="soak_"))
    print(f"Training runs and files are in {folder}", flush=True)
    figures = soak(config_folder(), folder, args.minutes * 60, args.seed, args.json)
    for title, part in figures.items():
        print_text(f"{title}: {part}")
    if figures["failures"]:
        sys.exit(1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tools/soak.py", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--minutes", type=float, default=60.0, help="duration; the current training run is finished first (default: 60)"
    )
    add("--seed", type=int, help="seed of all random choices (default: random)")
    add(
        "--json",
        type=Path,
        default=Path("soak.json"),
        help="file of the results, updated during the run (default: %(default)s)",
    )
    add("--folder", type=Path, help="folder for data, training runs and files (default: a new temporary folder)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
