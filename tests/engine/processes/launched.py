"""The program that tests start by torchrun, SLURM or arguments: it joins a job and follows the given commands."""

import argparse
import errno
import os
import signal
import sys
import time
from dataclasses import replace

import balanced_lvis  # isort: skip  # noqa: F401  Detectron2 before all else
import torch
from detectron2.utils import comm

from balanced_lvis.console.command_line import command_line
from balanced_lvis.engine.processes.job import find_job
from balanced_lvis.engine.processes.launch import launch
from balanced_lvis.engine.processes.watchdog import Limits, note
from balanced_lvis.utils.errors import InputError

LIMITS = Limits(8.0, 120.0)  # heartbeats may be late on a busy machine


def prepare():
    print("prepared", flush=True)
    if os.environ.get("FAIL") == "prepare":
        raise InputError("nothing to work on")


def work(folder):
    rank, size = comm.get_rank(), comm.get_world_size()
    fail = os.environ.get("FAIL", "").split(", ")
    if "NOTE" in os.environ:
        open(f"{os.environ['NOTE']}_{rank}", "w").close()
    if "all" in fail or f"rank {rank}" in fail:
        raise InputError("a bad file")
    if f"full {rank}" in fail:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/elsewhere/file")
    if f"kill {rank}" in fail:
        os.kill(os.getpid(), signal.SIGKILL)
    if f"stop {rank}" in fail:
        os.kill(os.getpid(), signal.SIGSTOP)
    if f"hang {rank}" in fail:
        note("loading the images of iteration 7")
        time.sleep(600)
    if f"slow {rank}" in fail:
        note("evaluating", slow=True)
        time.sleep(1.5 * LIMITS.timeout)
    note("exchanging", waiting=True)
    total = torch.tensor([rank + 1])
    torch.distributed.all_reduce(total)
    place = f"{rank} of {size}, {comm.get_local_rank()} of {comm.get_local_size()}: {int(total)}\n"
    with open(os.path.join(folder, f"rank{rank}"), "w") as file:
        file.write(place)


@command_line
def main(arguments=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    for name, default in (("--num-gpus", 1), ("--num-machines", 1), ("--machine-rank", 0)):
        parser.add_argument(name, type=int, default=default)
    parser.add_argument("--dist-url", default="auto")
    args = parser.parse_args(arguments)
    limits = replace(LIMITS, timeout=float(os.environ.get("TIMEOUT", LIMITS.timeout)))
    launch(find_job(args), prepare, work, (args.folder,), limits=limits)


if __name__ == "__main__":
    sys.exit(main())
