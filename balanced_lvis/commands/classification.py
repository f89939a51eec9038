"""The command ``classification``: all methods of long-tailed image classification at several imbalance factors."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from ..classification.config import default_config
from ..classification.experiment import IMBALANCES, QUICK, QUICK_SEEDS, run_experiment
from ..classification.methods import METHODS
from ..config_files.names import config_folder
from ..console.command_line import command_line
from ..experiments.seeds import SEEDS
from .overrides import parse_with_overrides
from .parsers import OVERRIDES, new_parser, program

DESCRIPTION = """\
Train image classifiers with every method, imbalance factor and seed, and compare them as in Table 1 and Figure 1 of the
paper. `make classification` runs this.

    %(prog)s                                           # rendered characters, under 45 minutes on two cores
    %(prog)s --quick                                   # a smoke test of two minutes
    %(prog)s --methods softmax ldam --imbalance 100 --seeds 0
    %(prog)s --dataset fashion_mnist --output output/classification_fashion_mnist
    %(prog)s --seeds 0 1 2 SOLVER.MAX_ITER 1000        # overrides of the config for all runs

The same command resumes an experiment that was interrupted. Needs no Detectron2.
"""
_CONFIGS = config_folder() / "classification"


@command_line
def main(arguments: list[str] | None = None) -> None:
    words = sys.argv[1:] if arguments is None else arguments
    args, overrides = parse_with_overrides(_parser(), words, set(default_config()))
    run_experiment(
        args.methods,
        args.imbalance,
        args.seeds or (QUICK_SEEDS if args.quick else SEEDS),
        args.output or Path("output/classification_quick" if args.quick else "output/classification"),
        f"{_CONFIGS / args.dataset}/",
        [*(QUICK if args.quick else ()), *overrides],
        args.jobs,
        f"{program('classification')} {shlex.join(words)}".rstrip(),
    )


def _parser() -> argparse.ArgumentParser:
    datasets = sorted(path.name for path in _CONFIGS.iterdir() if path.is_dir() and path.name != "base")
    parser = new_parser("classification", DESCRIPTION)
    add = parser.add_argument
    add("--output", type=Path, help="folder of the runs and results (default: output/classification)")
    add("--dataset", choices=datasets, default="characters", help="configs to train (default: %(default)s)")
    add("--methods", nargs="+", default=list(METHODS), help=f"methods (default: {' '.join(METHODS)})")
    add("--imbalance", type=int, nargs="+", default=list(IMBALANCES),
        help=f"imbalance factors (default: {' '.join(map(str, IMBALANCES))})")  # fmt: skip
    add("--seeds", type=int, nargs="+", help=f"seeds (default: {' '.join(map(str, SEEDS))}; 0 with --quick)")
    add("--quick", action="store_true", help="smoke test on few characters; its results are meaningless")
    add("--jobs", type=int, help="number of parallel runs (default: one per core, or one on a GPU)")
    add("opts", nargs=argparse.REMAINDER, help=OVERRIDES)
    return parser
