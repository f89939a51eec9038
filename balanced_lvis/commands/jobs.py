"""Commands that work in all processes of a job, with an output folder that no other job may use."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable

from ..console.command_line import log_to_files
from ..engine.processes.job import Job
from ..engine.processes.launch import launch
from ..engine.processes.watchdog import Limits
from ..engine.run import check
from ..utils.job_lock import only_job_in
from ..utils.storage import check_writable


def add_job_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds Detectron2's arguments on processes, which :func:`balanced_lvis.engine.processes.job.find_job` reads."""
    group = parser.add_argument_group("processes", "not needed with torchrun and SLURM")
    group.add_argument("--num-gpus", type=int, default=1, help="processes per machine (default: 1)")
    group.add_argument("--num-machines", type=int, default=1, help="number of machines (default: 1)")
    group.add_argument("--machine-rank", type=int, default=0, help="rank of this machine, from 0")
    group.add_argument(
        "--dist-url", default="auto", help="address of the first machine, tcp://HOST:PORT, to which the others connect"
    )


def evaluation_args(args: argparse.Namespace) -> argparse.Namespace:
    """The arguments, with those of ``train --eval-only`` set."""
    return argparse.Namespace(**{**vars(args), "eval_only": True, "resume": False, "allow_missing": False})


def check_and_launch(
    job: Job,
    cfg,
    args: argparse.Namespace,
    work: Callable[..., None],
    arguments: tuple,
    prepare: Callable[[], None] | None = None,
    output: str = "",
    option: str = "OUTPUT_DIR",
) -> None:
    """
    Lock the output folder and check everything, then work in all processes of a job.

    Args:
        job: the job that the config was read for.
        cfg: from :func:`balanced_lvis.engine.run.read_config`.
        args: from :func:`balanced_lvis.commands.train.argument_parser` or :func:`evaluation_args`.
        work: called with ``arguments`` in every process, as by :func:`balanced_lvis.engine.processes.launch.launch`.
        arguments: of ``work``.
        prepare: what the command checks after :func:`balanced_lvis.engine.run.check`.
        output: the output folder; "" for ``OUTPUT_DIR``.
        option: the argument that names the folder, for messages.

    Raises:
        InputError: if the config, a dataset or the weights are invalid.
        StorageError: if the folder can't be written to.
    """
    output = output or cfg.OUTPUT_DIR
    with contextlib.ExitStack() as stack:

        def check_all():
            if job.rank == 0:
                stack.enter_context(only_job_in(output, option))
            check_writable(output, option)
            log_to_files(output, job.rank, option)
            check(cfg, args, job)
            if prepare:
                prepare()

        launch(job, check_all, work, arguments, cfg.MODEL.DEVICE, Limits.from_config(cfg))
