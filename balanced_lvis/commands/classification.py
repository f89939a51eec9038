"""The command ``classification``: all methods of long-tailed image classification at several imbalance factors."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from ..classification.config import default_config, load_config
from ..classification.experiment import IMBALANCES, QUICK, QUICK_SEEDS, run_experiment
from ..classification.methods import METHODS
from ..config_files.imports import add_import_argument
from ..config_files.names import config_folder
from ..console.command_line import command_line
from ..experiments.arguments import SEEDS
from ..utils.errors import InputError
from .overrides import parse_with_overrides
from .parsers import OVERRIDES, new_parser, overrides_of, program

DESCRIPTION = """\
Train image classifiers with every method, imbalance factor and seed, and compare them as in Table 1 and Figure 1 of the
paper. `make classification` runs this.

    %(prog)s                                           # rendered characters, about an hour on two cores
    %(prog)s --quick                                   # a smoke test of two minutes
    %(prog)s --methods softmax ldam --imbalance 100 --seeds 0
    %(prog)s --dataset fashion_mnist                  # to output/classification_fashion_mnist
    %(prog)s --seeds 0 1 2 SOLVER.MAX_ITER 1000        # overrides of the config for all runs

The same command resumes an experiment that was interrupted. Needs no Detectron2.
"""
_CONFIGS = config_folder() / "classification"
_DATASET = "characters"


@command_line
def main(arguments: list[str] | None = None) -> None:
    words = sys.argv[1:] if arguments is None else arguments
    args = parse_with_overrides(_parser(), words, set(default_config()))
    configs = _CONFIGS / args.dataset
    run_experiment(
        _methods(configs, args.methods),
        _imbalances(configs) if args.imbalance is None else args.imbalance,
        args.seeds or (QUICK_SEEDS if args.quick else SEEDS),
        args.output or _default_output(args.dataset, args.quick),
        f"{configs}/",
        [*(QUICK if args.quick else ()), *overrides_of(args)],
        args.jobs,
        f"{program('classification')} {shlex.join(words)}".rstrip(),
    )


def _default_output(dataset: str, quick: bool) -> Path:
    """A folder per dataset, as an experiment deletes runs of other configs."""
    words = ["classification", *([dataset] if dataset != _DATASET else []), *(["quick"] if quick else [])]
    return Path("output", "_".join(words))


def _methods(configs: Path, wanted: list[str] | None) -> list[str]:
    """
    The chosen methods, by default all that have a config.

    Raises:
        InputError: if a chosen method has no config for this dataset.
    """
    found = [key for key in METHODS if (configs / f"{key}.yaml").is_file()]
    if missing := [key for key in wanted or () if key in METHODS and key not in found]:
        raise InputError(
            f"--methods: {', '.join(map(repr, missing))}; --dataset {configs.name} has configs of {', '.join(found)}."
        )
    return found if wanted is None else wanted


def _imbalances(configs: Path) -> tuple[int, ...]:
    """
    The imbalance factors of the paper, with two exceptions: 0, all images, for data that already has a long tail; and
    the factor of the config alone where its steps are counted in epochs of that subset.
    """
    cfg = load_config(configs / "softmax.yaml")
    imbalance = int(cfg.DATASET.LONG_TAIL.IMBALANCE)
    return (imbalance,) if imbalance == 0 or cfg.SOLVER.LR_SCHEDULE == "steps" else IMBALANCES


def _parser() -> argparse.ArgumentParser:
    datasets = sorted(path.name for path in _CONFIGS.iterdir() if path.is_dir() and path.name != "base")
    parser = new_parser("classification", DESCRIPTION)
    add = parser.add_argument
    add("--output", type=Path, help="folder of the runs and results (default: output/classification[_DATASET][_quick])")
    add("--dataset", choices=datasets, default=_DATASET, help="configs to train (default: %(default)s)")
    add("--methods", nargs="+", help=f"methods (default: all with a config, of {' '.join(METHODS)})")
    factors = " ".join(map(str, IMBALANCES))
    add("--imbalance", type=int, nargs="+",
        help=f"imbalance factors, or 0 for all images (default: {factors}; 0 with --dataset folder, "
        "100 with *_200_epochs, whose schedules fit no other)")  # fmt: skip
    add("--seeds", type=int, nargs="+", help=f"seeds (default: {' '.join(map(str, SEEDS))}; 0 with --quick)")
    add("--quick", action="store_true", help="smoke test on few characters; its results are meaningless")
    add("--jobs", type=int, help="number of parallel runs (default: one per core, or one on a GPU)")
    add_import_argument(parser)
    add("opts", nargs=argparse.REMAINDER, help=OVERRIDES)
    return parser
