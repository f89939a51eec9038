"""The command ``calibrate``: many calibrations of one checkpoint, evaluated in one pass of inference."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import shlex
import sys
from dataclasses import dataclass, field, replace

from detectron2.utils import comm

from ..config import load_config, thawed
from ..config_files.keys import get
from ..config_files.names import config_path, is_lazy_file
from ..console.command_line import command_line, log_to_files
from ..console.printing import print_text
from ..engine.processes.job import find_job
from ..engine.run import prepare_worker, read_config
from ..experiments.calibration_grid import (
    Grid,
    Plan,
    Setting,
    check_settings,
    default_grids,
    evaluate_settings,
    settings_of,
    warnings_of,
)
from ..experiments.calibration_report import REPORT_FILES, calibration_lines, config_of, write_report
from ..utils.errors import InputError
from ..utils.io import write_json, write_text
from ..utils.memory_allocator import keep_freed_memory
from ..utils.storage import clear_errors
from .jobs import add_job_arguments, check_and_launch, evaluation_args
from .overrides import parse_with_overrides
from .parsers import add_config_arguments, check_config_given, new_parser, overrides_of, program

logger = logging.getLogger(__name__)

DESCRIPTION = """\
Evaluate a checkpoint under many calibrations in one pass of inference, and choose the best.

    %(prog)s --config-file r50_rfs_softmax MODEL.WEIGHTS output/r50_rfs_softmax/model_final.pth
    %(prog)s --config-file r50_rfs_softmax \\
        --calibration logit_adjustment --grid TAU 0.25 0.5 1 --grid COUNT image instance \\
        --holdout 0.5 MODEL.WEIGHTS output/r50_rfs_softmax/model_final.pth

--calibration can be given several times, each with its own --grid options; all combinations of their values are tried.
Without --calibration, all calibrations that can be used with the model are tried, and without --grid the default values
of a calibration. The scores without calibration are always included.

table.md, table.json, tradeoff.png (APr against APf) and best.yaml are written to OUTPUT_DIR/calibration. best.yaml is a
config with the best setting:

    balanced-lvis evaluate --config-file output/r50_rfs_softmax/calibration/best.yaml --weights ...

A setting that was chosen on the images of a test set is too good on them: --holdout chooses on one part of the images
and reports on the other. See docs/calibration.md.
"""
FOLDER = "calibration"  # in OUTPUT_DIR
_TABLE, _BEST = "table.json", "best.yaml"
# Overrides that are not part of best.yaml.
_OF_THIS_RUN = ("MODEL.WEIGHTS", "OUTPUT_DIR")


@command_line
def main(arguments: list[str] | None = None) -> None:
    words = sys.argv[1:] if arguments is None else arguments
    args = parse_with_overrides(_parser(), words)
    args.opts = overrides_of(args)
    args.command = f"{program('calibrate')} {shlex.join(words)}"
    check_config_given(args)
    _check_yaml(args.config_file)
    _start(evaluation_args(args))


class _AddCalibration(argparse.Action):
    def __call__(self, parser, namespace, value, option_string=None):
        namespace.grids = [*namespace.grids, Grid(value, {})]


class _AddValues(argparse.Action):
    def __call__(self, parser, namespace, words, option_string=None):
        option, *values = words
        if not namespace.grids:
            parser.error(f"--grid {option} needs a --calibration before it")
        *others, last = namespace.grids
        if option.lower() in (name.lower() for name in last.values):
            parser.error(f"--grid {option} is given twice for --calibration {last.calibration}")
        namespace.grids = [*others, Grid(last.calibration, {**last.values, option: values})]


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("calibrate", DESCRIPTION)
    parser.set_defaults(grids=[])
    add = parser.add_argument
    add_config_arguments(parser, "config of the checkpoint")
    add("--calibration", metavar="NAME", action=_AddCalibration, dest="grids",
        help="calibration to try; can be given several times (default: all that fit the activation)")  # fmt: skip
    add("--grid", metavar=("OPTION", "VALUE"), nargs="+", action=_AddValues, dest="grids",
        help="values of an option of the --calibration before; can be given several times")  # fmt: skip
    add("--dataset", metavar="NAME", help="registered dataset to evaluate on (default: DATASETS.TEST)")
    add("--select", metavar="METRIC", default="AP",
        help="metric of the best setting, of masks if there are any, or as bbox/APr (default: AP)")  # fmt: skip
    add("--holdout", metavar="SHARE", type=float, default=0.0,
        help="share of the images to report on; settings are chosen on the others (default: 0, no split)")  # fmt: skip
    add("--seed", type=int, default=0, help="seed of the split of --holdout (default: 0)")
    add("--output", metavar="FOLDER", help=f"folder to write to (default: OUTPUT_DIR/{FOLDER})")
    add_job_arguments(parser)
    add("opts", nargs=argparse.REMAINDER, help="KEY VALUE overrides of the config, such as MODEL.WEIGHTS FILE")
    return parser


@dataclass(frozen=True)
class _Report:
    """
    Attributes:
        base: ``--config-file``.
        overrides: {key: value} of the command line.
        command: the command line.
    """

    base: str
    overrides: dict[str, object]
    command: str


@dataclass
class _Tried:
    """
    What is known only after datasets have been read.

    Attributes:
        settings: of all grids.
        warnings: of calibrations that are not tried.
    """

    settings: tuple[Setting, ...] = ()
    warnings: list[str] = field(default_factory=list)


def _start(args: argparse.Namespace) -> None:
    """
    Check everything, then evaluate in all processes of a job.

    Raises:
        InputError: if the command line, the config, a dataset or the weights are invalid.
    """
    job = find_job(args)
    cfg = thawed(read_config(args, job))
    if not cfg.MODEL.WEIGHTS:
        raise InputError("A calibration corrects a trained model: add MODEL.WEIGHTS path/to/model_final.pth.")
    reported_on = tuple(cfg.DATASETS.TEST)
    tried = _Tried(settings_of(cfg, args.grids))
    plan = Plan(
        dataset=_dataset(args.dataset, reported_on),
        settings=(),  # those of tried
        select=args.select,
        holdout=args.holdout,
        seed=args.seed,
        output=args.output or os.path.join(os.path.dirname(cfg.OUTPUT_DIR), FOLDER),
    )
    plan.check()
    _check_base(args.config_file, plan.output)
    cfg.DATASETS.TEST, cfg.OUTPUT_DIR = (plan.dataset,), plan.output
    cfg.MODEL.ROI_BOX_HEAD.CALIBRATION.NAME = ""
    cfg.freeze()
    report = _Report(args.config_file, _given(args), args.command)

    def prepare():
        if args.grids:
            check_settings(cfg, tried.settings)
        else:
            grids, tried.warnings = default_grids(cfg)
            tried.settings = settings_of(cfg, grids)

    arguments = (cfg, plan, tried, reported_on, report)
    check_and_launch(job, cfg, args, _work, arguments, prepare, plan.output, "--output")


def _dataset(name: str | None, reported_on: tuple[str, ...]) -> str:
    if name:
        return name
    if len(reported_on) != 1:
        raise InputError(f"DATASETS.TEST is {reported_on}; name the dataset to evaluate on with --dataset.")
    return reported_on[0]


def _check_base(config_file: str, output: str) -> None:
    """best.yaml is based on the config, and can't be based on itself."""
    best = os.path.join(output, _BEST)
    if config_file and os.path.realpath(config_file) == os.path.realpath(best):
        raise InputError(
            f"--config-file is {config_file}, which this command writes; name the config that it is based on, or "
            "another folder with --output."
        )


def _check_yaml(config_file: str) -> None:
    """best.yaml is a yaml config, whose base must be one, too."""
    if config_file and is_lazy_file(config_path(config_file)):
        raise InputError(
            f"--config-file {config_file} is a LazyConfig; pass the config.yaml that its training run wrote to "
            "train.output_dir, which this command can base a config on."
        )


def _given(args: argparse.Namespace) -> dict[str, object]:
    """The overrides of the command line, with the values that they have in the config."""
    cfg = load_config(args.config_file, args.opts)
    given = {}
    for key in args.opts[::2]:
        if key not in _OF_THIS_RUN:
            given[key] = get(cfg, key)
    return given


def _work(cfg, plan: Plan, tried: _Tried, reported_on: tuple[str, ...], report: _Report) -> None:
    """Evaluates in every process of the job."""
    keep_freed_memory(cfg.MODEL.DEVICE)
    with clear_errors(plan.output, "--output"):
        log_to_files(plan.output, comm.get_rank(), "--output")
        prepare_worker(cfg)
        tried = comm.all_gather(tried)[0]  # others of torchrun have not prepared
        plan, warnings = replace(plan, settings=tried.settings), []
        if comm.is_main_process():
            _remove_outputs(plan.output)
            warnings = [*tried.warnings, *warnings_of(cfg, plan.dataset, reported_on, plan.holdout)]
            for warning in warnings:
                logger.warning("%s", warning)
        logger.info("%d settings on %s", len(plan.settings), plan.dataset)
        found = evaluate_settings(cfg, plan)
        if found is not None:
            _write(found, plan, cfg.MODEL.WEIGHTS, warnings, report)


def _remove_outputs(folder: str) -> None:
    """Those of an earlier call, which this one may not replace: without a best setting, there is no best.yaml."""
    for name in (_TABLE, _BEST, *REPORT_FILES):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(folder, name))


def _write(found: dict, plan: Plan, weights: str, warnings: list[str], report: _Report) -> None:
    content = {**found, "weights": weights, "warnings": warnings, "command": report.command}
    write_json(os.path.join(plan.output, _TABLE), content, indent=1)
    print_text(write_report(found, plan.output, warnings, f"`{report.command}`"))
    if found["best"] is None:
        logger.warning("%s has no value in any setting, so there is no best setting.", found["select"])
        return
    best = found["settings"][found["best"]]
    path = os.path.join(plan.output, _BEST)
    write_text(path, config_of(best, report.base, report.overrides, plan.output))
    print_text(f"The best setting, as the config {path}:\n\n{calibration_lines(best)}")
