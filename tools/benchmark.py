#!/usr/bin/env python
"""
Time and peak memory of an LVIS config beside stock Detectron2's LVIS R50 config.

    tools/benchmark.py [train|inference|stage2|all] [--device cuda] [--json benchmark.json]

stage2 is a step of cRT beside stock Detectron2 with all but the classifier frozen by requires_grad.

Weights are random and images rendered, so that nothing has to be downloaded: good for comparing the two in one run,
not for predicting the speed of a trained model.
"""

import argparse
import sys
from pathlib import Path

import torch
from tabulate import tabulate

from balanced_lvis.engine.benchmark import SUITES, compare, machine
from balanced_lvis.engine.screen import command_line
from balanced_lvis.io import write_json

ROOT = Path(__file__).resolve().parents[1]


@command_line
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", nargs="?", default="all", choices=[*SUITES, "all"])
    parser.add_argument("--config-file", type=Path, help="an LVIS config (default: the suite's, of R50)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--batch", type=int, default=2, help="images at a time")
    parser.add_argument("--iterations", type=int, default=5, help="measured steps per process")
    parser.add_argument("--rounds", type=int, default=3, help="processes per contender")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    args = parser.parse_args()
    suites = SUITES if args.suite == "all" else (args.suite,)
    configs = {suite: args.config_file or ROOT / "configs" / SUITES[suite] for suite in suites}
    rows = [compare(s, configs[s], args.device, args.batch, args.iterations, args.rounds) for s in suites]
    print(tabulate(rows, headers="keys", floatfmt=".2f", tablefmt="github"))
    if args.json:
        write_json(args.json, {"machine": machine(args.device), "rows": rows}, indent=1)


if __name__ == "__main__":
    sys.exit(main())
