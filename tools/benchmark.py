#!/usr/bin/env python
"""
Time and peak memory of balanced_lvis beside what it replaces, on the same input in one run.

    tools/benchmark.py [SUITE ...|all] [--device cuda] [--json benchmark.json]

train, stage2, inference: an LVIS config of R50 beside stock Detectron2's; stage2 is a step of cRT beside stock
Detectron2 with all but the classifier frozen by requires_grad. startup: from annotations to what a rank trains from.
"""

import argparse
import sys
from pathlib import Path

import torch
from tabulate import tabulate

from balanced_lvis.benchmark import SUITES, Options, machine
from balanced_lvis.engine.screen import command_line
from balanced_lvis.io import write_json

ROOT = Path(__file__).resolve().parents[1]


@command_line
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suites", nargs="*", default="all", choices=[*SUITES, "all"], metavar="SUITE",
                        help=f"all (default), or any of {', '.join(SUITES)}")  # fmt: skip
    parser.add_argument("--config-file", help="another LVIS config than the suite's own")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--batch", type=int, default=2, help="images at a time")
    parser.add_argument("--iterations", type=int, default=5, help="measured steps per process")
    parser.add_argument("--rounds", type=int, default=3, help="measurements per contender")
    parser.add_argument(
        "--annotations", type=int, default=Options.annotations, help="size of the start-up suite's file"
    )
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    args = parser.parse_args()
    options = Options(
        args.device, args.rounds, args.batch, args.iterations, ROOT / "configs", args.config_file, args.annotations
    )
    suites = SUITES if "all" in args.suites else args.suites
    rows = [row for suite in suites for row in SUITES[suite](options)]
    print(tabulate(rows, headers="keys", floatfmt=".2f", tablefmt="github"))
    if args.json:
        write_json(args.json, {"machine": machine(args.device), "rows": rows}, indent=1)


if __name__ == "__main__":
    sys.exit(main())
