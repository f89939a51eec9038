#!/usr/bin/env python
"""
Kill real trainings and feed parsers with broken files, for as long as is wished.

    tools/soak.py --minutes 60 --json soak.json

Trainings are killed at random moments and while they write checkpoints, their files are damaged, and each has to end as
one that nobody touched, to the last bit. The status is 1 if anything failed; what is needed to look into it stays in
--folder.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import _checkout  # noqa: F401
import torch

from balanced_lvis.console.command_line import command_line
from balanced_lvis.console.printing import print_text
from soak import soak

ROOT = Path(__file__).resolve().parents[1]


@command_line
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0, help="how long; a training under way is ended first")
    parser.add_argument("--seed", type=int, help="of what happens when; another each time where left out")
    parser.add_argument("--json", type=Path, default=Path("soak.json"), help="the figures, written on the way too")
    parser.add_argument("--folder", type=Path, help="for data, trainings and files; a new temporary one where left out")
    args = parser.parse_args()
    torch.set_num_threads(1)  # a process that is forked must not have started threads
    folder = args.folder or Path(tempfile.mkdtemp(prefix="soak_"))
    print(f"Trainings and files are in {folder}", flush=True)
    figures = soak(ROOT / "configs", folder, args.minutes * 60, args.seed, args.json)
    for title, part in figures.items():
        print_text(f"{title}: {part}")
    if figures["failures"]:
        sys.exit(1)


if __name__ == "__main__":
    sys.exit(main())
