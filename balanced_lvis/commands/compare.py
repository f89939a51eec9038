"""The command ``compare``: comparison of all methods over several seeds."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from ..config_files.imports import add_import_argument
from ..config_files.names import config_folder
from ..console.command_line import command_line, log_to_screen
from ..experiments.arguments import SEEDS
from ..experiments.combination_search import FINALISTS, search_combinations
from ..experiments.compare import QUICK, QUICK_SEEDS, Experiment, compare
from ..experiments.comparison_report import METRICS
from ..experiments.methods import METHODS
from .overrides import parse_with_overrides
from .parsers import new_parser, overrides_of, program

DESCRIPTION = """\
Train every method with several seeds and compare them as in Table 2 of the paper. `make compare` runs this.

    %(prog)s                                          # all methods on the rendered dataset, three seeds
    %(prog)s --methods rfs crt --seeds 0 1            # two methods; results are kept from call to call
    %(prog)s --quick                                  # a smoke test of some minutes
    %(prog)s --configs configs/r50_ --output output/r50_compare    # LVIS-1.0, on a GPU
    %(prog)s --seeds 0 1 2 SOLVER.IMS_PER_BATCH 16    # overrides of the config for all runs, second stages too
    %(prog)s --methods rfs my_method.yaml --import my_method       # a method of your own, named after its config
    %(prog)s --combinations                           # then look for the best combination of the methods

The same command resumes a comparison that was interrupted.
"""


@command_line
def main(arguments: list[str] | None = None) -> None:
    words = sys.argv[1:] if arguments is None else arguments
    args = parse_with_overrides(_parser(), words)
    log_to_screen()
    experiment = Experiment(
        methods=args.methods,
        seeds=args.seeds or (QUICK_SEEDS if args.quick else SEEDS),
        output=args.output or Path("output/compare_quick" if args.quick else "output/compare"),
        configs=args.configs,
        overrides=[*(QUICK if args.quick else ()), *overrides_of(args)],
        jobs=args.jobs,
        command=f"{program('compare')} {shlex.join(words)}".rstrip(),
    )
    if args.combinations:
        search_combinations(experiment, args.search_seed, args.metric, args.finalists)
    else:
        compare(experiment)


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("compare", DESCRIPTION)
    add = parser.add_argument
    add(
        "--output",
        type=Path,
        help="folder for results (default: output/compare, or output/compare_quick with --quick)",
    )
    add("--seeds", type=int, nargs="+", help=f"seeds (default: {' '.join(map(str, SEEDS))}; 0 with --quick)")
    add("--methods", nargs="+", default=list(METHODS),
        help=f"methods, or paths of configs of other methods (default: {' '.join(METHODS)})")  # fmt: skip
    add("--quick", action="store_true", help="smoke test on little data; its results are meaningless")
    add("--combinations", action="store_true",
        help="look for the best combination of activation, sampler, second stage and calibration")  # fmt: skip
    add("--search-seed", type=int, default=0,
        help="with --combinations: seed of the models to choose from (default: %(default)s)")  # fmt: skip
    add("--metric", default="AP", choices=METRICS,
        help="with --combinations: metric to rank by; AP is mask AP (default: %(default)s)")  # fmt: skip
    add("--finalists", type=int, default=FINALISTS,
        help="with --combinations: number of combinations to train with all seeds (default: %(default)s)")  # fmt: skip
    add("--configs", default=f"{config_folder() / 'rendered'}/",
        help="beginning of the config paths, which end in METHOD.yaml (default: the configs of the rendered "
             "dataset)")  # fmt: skip
    add("--jobs", type=int, help="number of parallel runs (default: one per core, or one per GPU)")
    add_import_argument(parser)
    add("opts", nargs=argparse.REMAINDER, help="KEY VALUE overrides of the config, for all runs")
    return parser
