#!/usr/bin/env python
"""
Train the sigmoid baseline and Balanced Sigmoid on the rendered data set and compare them; `make quickstart` runs this.

    tools/quick_start.py [--output output/quick_start] [KEY VALUE ...]
"""

import argparse
import sys
from pathlib import Path

from balanced_lvis.engine.quick_start import Run, quick_start
from balanced_lvis.engine.run import command_line

ROOT = Path(__file__).resolve().parents[1]


@command_line
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("output/quick_start"), help="folder for the results")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="config overrides for both runs: KEY VALUE pairs")
    args = parser.parse_args()
    configs = ROOT / "configs" / "quick_start"
    runs = [
        Run("baseline", "sigmoid", configs / "sigmoid.yaml", args.output / "baseline"),
        Run(
            "balanced_sigmoid", "Balanced Sigmoid", configs / "balanced_sigmoid.yaml", args.output / "balanced_sigmoid"
        ),
    ]
    quick_start(runs, ROOT / "tools" / "train_net.py", args.output, args.opts)


if __name__ == "__main__":
    sys.exit(main())
