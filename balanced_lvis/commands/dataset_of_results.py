"""The dataset that results were made for: its annotation file and its images."""

from __future__ import annotations

import argparse
import logging
import os

from ..analysis.sources import config_of_run
from ..config import load_config
from ..evaluation.evaluated_dataset import EvaluatedDataset, evaluated_dataset
from ..utils.errors import InputError
from .parsers import add_config_arguments, overrides_of

logger = logging.getLogger(__name__)


def add_dataset_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds ``--dataset``, ``--config-file`` and ``--import``."""
    parser.add_argument("--dataset", metavar="NAME_OR_JSON",
        help="registered dataset or annotation file (default: DATASETS.TEST of the run's config.yaml)")  # fmt: skip
    add_config_arguments(parser, "config that defines the dataset (default: config.yaml of the run)", default="")


def dataset_of_results(args: argparse.Namespace, results: str) -> EvaluatedDataset:
    """
    Args:
        args: a parsed command line with the arguments of :func:`add_dataset_arguments` and ``opts``.
        results: path of the results, whose run has a config.

    Raises:
        InputError: if neither the command line nor the run names a dataset, or if it has no annotation file.
    """
    if args.dataset and os.path.isfile(args.dataset):
        return EvaluatedDataset(args.dataset, None)
    config = args.config_file or config_of_run(results)
    if not args.dataset and not config:
        raise InputError(
            f"{results} is not in the folder of a run with a config.yaml that names its dataset; add --dataset, with "
            "the name of a registered dataset or the path of an annotation file."
        )
    cfg = load_config(config or "", overrides_of(args))
    if not args.dataset and len(cfg.DATASETS.TEST) != 1:
        raise InputError(f"DATASETS.TEST of {config} is {tuple(cfg.DATASETS.TEST)}; choose one dataset with --dataset.")
    name = args.dataset or cfg.DATASETS.TEST[0]
    found = evaluated_dataset(cfg, name)
    logger.info("Dataset %s%s: %s", name, f" of {config}" if config else "", found.annotations)
    return found
