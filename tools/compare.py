#!/usr/bin/env python
"""
Train every method with several seeds and compare them as in the paper's Table 2; `make compare` runs this.

    tools/compare.py                                          # all methods on the rendered data set, three seeds
    tools/compare.py --methods rfs crt --seeds 0 1            # two of them; results are kept from call to call
    tools/compare.py --quick                                  # a smoke test of minutes
    tools/compare.py --configs configs/r50_ --output output/r50_compare    # LVIS-1.0, on a GPU
    tools/compare.py --seeds 0 1 2 SOLVER.IMS_PER_BATCH 16    # config overrides for all runs, second stages too

An interrupted comparison goes on where it stopped when the same command is given again.
"""

if __name__ == "__main__":
    import _early_signals  # noqa: F401  before imports that take seconds

import argparse
import re
import shlex
import sys
from pathlib import Path

from balanced_lvis.console.command_line import command_line, log_to_screen
from balanced_lvis.experiments.compare import METHODS, QUICK, QUICK_SEEDS, SEEDS, compare

ROOT = Path(__file__).resolve().parents[1]
CONFIG_KEY = re.compile(r"[A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)+")


@command_line
def main() -> None:
    args, overrides = parse(sys.argv[1:])
    log_to_screen()
    compare(
        args.methods,
        args.seeds or (QUICK_SEEDS if args.quick else SEEDS),
        ROOT / "tools" / "train_net.py",
        args.output or Path("output/compare_quick" if args.quick else "output/compare"),
        args.configs,
        [*(QUICK if args.quick else ()), *overrides],
        args.jobs,
        shlex.join(["tools/compare.py", *sys.argv[1:]]),
    )


def parse(words: list[str]):
    """Arguments, and the overrides from the first config key on, which argparse would take for another method."""
    at = next((i for i, word in enumerate(words) if CONFIG_KEY.fullmatch(word)), len(words))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--output", type=Path, help="folder for runs and results (default: output/compare, with --quick compare_quick)")
    add("--seeds", type=int, nargs="+", help=f"of the trainings (default: {' '.join(map(str, SEEDS))}; with --quick 0)")
    add("--methods", nargs="+", default=list(METHODS), help=f"by default all: {' '.join(METHODS)}")
    add("--quick", action="store_true", help="a smoke test on little data; its figures mean nothing")
    add(
        "--configs",
        default=f"{ROOT / 'configs' / 'rendered'}/",
        help="what comes before METHOD.yaml (default: %(default)s)",
    )
    add("--jobs", type=int, help="runs at a time (default: one per core, or one on a GPU)")
    add("opts", nargs=argparse.REMAINDER, help="config overrides for all runs: KEY VALUE pairs")
    args = parser.parse_args(words[:at])
    return args, [*args.opts, *words[at:]]


if __name__ == "__main__":
    sys.exit(main())
