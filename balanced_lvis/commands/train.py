"""The command ``train``: training, and evaluation of a checkpoint or a results file."""

from __future__ import annotations

import argparse

from detectron2.engine import default_argument_parser

from ..config_files.imports import add_import_argument
from ..console.command_line import command_line
from ..engine.processes.job import find_job
from ..engine.run import read_config, run_in_worker
from ..utils.job_lock import only_job_in
from .evaluate_file import check_evaluates_file, evaluate_file
from .jobs import check_and_launch
from .parsers import CONFIG_FILE, DETECTION_OVERRIDES, check_config_given, overrides_of, program

DESCRIPTION = "Train a model and evaluate it, or evaluate a checkpoint or a results file."

EXAMPLES = """\
  %(prog)s --config-file r101_balanced_sigmoid --num-gpus 8
  %(prog)s --config-file r101_balanced_sigmoid --num-gpus 8 --resume
  %(prog)s --config-file r50_rfs --eval-only MODEL.WEIGHTS output/r50_rfs/model_final.pth
  %(prog)s --config-file r50_rfs --eval-only --predictions results.json
  %(prog)s --config-file lazy/vitdet_b_balanced_sigmoid --num-gpus 8 train.output_dir=output/mine
  torchrun --nproc_per_node 8 -m balanced_lvis train --config-file r50_rfs

Overrides of the config come last. The model, logs and results.json are written to OUTPUT_DIR, those of --eval-only to
OUTPUT_DIR/evaluation. Several machines, SLURM: docs/scaling.md. Without a GPU everything runs on the CPU, and
--num-gpus is the number of processes.

exit status: 0 success; 2 invalid input; 3 training diverged; 4 disk or folder error; 5 a process was lost; 75 stopped
by SIGTERM or SIGUSR1, after a checkpoint if training had started; 130 interrupted by Ctrl-C. --resume continues"""


def argument_parser() -> argparse.ArgumentParser:
    """Detectron2's arguments and those of this project; without a GPU, ``--num-gpus`` is the number of processes."""
    parser = default_argument_parser(f"examples:\n{EXAMPLES}")
    parser.prog, parser.description = program("train"), DESCRIPTION
    # Detectron2's default is a port that two jobs of one user would share.
    parser.set_defaults(dist_url="auto")
    helps = {
        "--config-file": f"{CONFIG_FILE}, such as r50_balanced_sigmoid",
        "--resume": "continue from the newest complete checkpoint in OUTPUT_DIR, if there is one",
        "--eval-only": "evaluate MODEL.WEIGHTS on DATASETS.TEST; results are written to OUTPUT_DIR/evaluation",
        "--num-gpus": "number of processes on this machine, one per GPU if there are GPUs (default: 1)",
        "--num-machines": "number of machines; not needed with torchrun and SLURM (default: 1)",
        "--machine-rank": "rank of this machine, from 0",
        "--dist-url": "address of the first machine, tcp://HOST:PORT, to which the others connect",
        "opts": DETECTION_OVERRIDES,
    }
    for action in parser._actions:
        name = (action.option_strings or [action.dest])[-1]
        action.help = helps.get(name, action.help)
    add_import_argument(parser)
    parser.add_argument(
        "--allow-missing",
        action="store_true",
        help="train without the images that are not on disk; their number and the first names are reported",
    )
    parser.add_argument(
        "--predictions",
        metavar="FILE",
        help="with --eval-only: evaluate a results file, JSON or zip, on DATASETS.TEST, without a model",
    )
    return parser


@command_line
def main(arguments: list[str] | None = None) -> None:
    """
    Train or evaluate, with Detectron2's arguments.

    Args:
        arguments: the command line without the program's name; None for ``sys.argv``.
    """
    start(argument_parser().parse_args(arguments))


def start(args: argparse.Namespace) -> None:
    """
    Train or evaluate according to the parsed arguments.

    Args:
        args: from :func:`argument_parser`.

    Raises:
        InputError: if the command line, config, datasets or weights are invalid.
    """
    args.opts = overrides_of(args)
    check_config_given(args)
    job = find_job(args)
    args.resume |= job.attempt > 0  # restarted by torchrun after a failure
    cfg = read_config(args, job)
    if args.predictions:
        check_evaluates_file(args.eval_only, job.world_size)
        with only_job_in(cfg.OUTPUT_DIR):
            evaluate_file(cfg, args.predictions)
    else:
        check_and_launch(job, cfg, args, run_in_worker, (cfg, args))
