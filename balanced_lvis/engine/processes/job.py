"""The processes of a job and this process's rank, from command-line arguments, torchrun or SLURM."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ...utils.errors import InputError

# Environment variables that torchrun sets.
_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# Neither privileged ports nor, on Linux, ephemeral ports.
_PORTS = range(15_000, 32_000)


@dataclass(frozen=True)
class Job:
    """
    A job with one or more processes, from the view of one of them.

    Attributes:
        launcher: source of the settings: "arguments", "torchrun" or "slurm".
        world_size: number of processes of the job.
        local_size: number of processes per machine.
        rank: rank of this process, or of the first process that it starts.
        children: number of processes that this process starts; 0 if it does the work itself.
        address: host name or address of the rendezvous.
        port: port of the rendezvous; 0 for any free port.
        hosts_store: whether the job hosts the store at ``address``; otherwise torchrun's agent does.
        attempt: number of restarts by torchrun.
    """

    launcher: str = "arguments"
    world_size: int = 1
    local_size: int = 1
    rank: int = 0
    children: int = 0
    address: str = "127.0.0.1"
    port: int = 0
    hosts_store: bool = True
    attempt: int = 0

    @property
    def local_rank(self) -> int:
        """Rank of this process on its machine."""
        return self.rank % self.local_size

    @property
    def started_by_others(self) -> bool:
        """Whether the processes of the job were started by a launcher."""
        return self.launcher != "arguments" and not self.children


def find_job(args, environ: Mapping[str, str] = os.environ) -> Job:
    """
    Find the job that this process belongs to.

    The environment variables of torchrun and SLURM take precedence over ``--num-gpus``, ``--num-machines``,
    ``--machine-rank`` and ``--dist-url``. With one SLURM task per machine, each task starts ``--num-gpus`` processes.

    Args:
        args: parsed arguments, with these four.
        environ: environment variables.

    Raises:
        InputError: if the settings are invalid or contradict each other.
    """
    if args.num_gpus < 1:
        raise InputError(f"--num-gpus is {args.num_gpus}; use 1 for a single process, with or without a GPU.")
    if all(name in environ for name in _TORCHRUN):
        return _from_torchrun(args, environ)
    if int(environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1:  # set by srun, not in a batch script
        return _from_slurm(args, environ)
    return _from_arguments(args)


def _from_torchrun(args, environ) -> Job:
    rank, world_size, local_size = (int(environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    _check_num_gpus(args.num_gpus, local_size, "torchrun")
    return Job(
        "torchrun",
        world_size,
        local_size,
        rank,
        address=environ["MASTER_ADDR"],
        port=int(environ["MASTER_PORT"]),
        hosts_store=environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True",
        attempt=int(environ.get("TORCHELASTIC_RESTART_COUNT", 0)),
    )


def _from_slurm(args, environ) -> Job:
    rank, tasks = int(environ["SLURM_PROCID"]), int(environ["SLURM_STEP_NUM_TASKS"])
    sizes = set(expand_tasks(environ["SLURM_STEP_TASKS_PER_NODE"]))
    if len(sizes) > 1:
        raise InputError(
            f"SLURM runs {environ['SLURM_STEP_TASKS_PER_NODE']} tasks on its nodes; all nodes need the same number: "
            "use sbatch --ntasks-per-node."
        )
    (local_size,) = sizes
    meeting: dict[str, Any] = {
        "address": environ.get("MASTER_ADDR") or next(expand_hosts(environ["SLURM_STEP_NODELIST"])),
        "port": int(environ.get("MASTER_PORT") or _port(environ)),
    }
    if local_size == 1 and args.num_gpus > 1:
        size = args.num_gpus
        return Job("slurm", tasks * size, size, rank * size, children=size, **meeting)
    _check_num_gpus(args.num_gpus, local_size, "SLURM")
    return Job("slurm", tasks, local_size, rank, **meeting)


def _check_num_gpus(num_gpus: int, local_size: int, launcher: str) -> None:
    if num_gpus not in (1, local_size):
        raise InputError(
            f"--num-gpus is {num_gpus}, but {launcher} has started {local_size} process(es) per machine; "
            "remove --num-gpus."
        )


def _port(environ) -> int:
    """A port that differs between jobs and steps, derived from their numbers without communication."""
    number = int(environ.get("SLURM_JOB_ID", 0)) * 31 + int(environ.get("SLURM_STEP_ID", 0))
    return _PORTS[number % len(_PORTS)]


def _from_arguments(args) -> Job:
    size, machines = args.num_gpus, args.num_machines
    if not 0 <= args.machine_rank < machines:
        raise InputError(
            f"--machine-rank is {args.machine_rank}; with --num-machines {machines} it must be 0 to {machines - 1}."
        )
    if size * machines == 1:
        return Job()
    address, port = "127.0.0.1", 0
    if args.dist_url != "auto":
        found = re.fullmatch(r"tcp://\[?([^/]+?)\]?:(\d+)/?", args.dist_url)
        if not found:
            raise InputError(f"--dist-url is {args.dist_url!r}; it must be tcp://HOST:PORT, or auto on one machine.")
        address, port = found[1], int(found[2])
    elif machines > 1:
        raise InputError(
            f"--num-machines is {machines}, which needs --dist-url tcp://HOST:PORT, with the name and a free port of "
            "the first machine."
        )
    return Job("arguments", size * machines, size, args.machine_rank * size, size, address, port)


def expand_hosts(names: str) -> Iterator[str]:
    """
    Yield the hosts of a SLURM node list in order: "a[01-03,7],b" gives a01, a02, a03, a7, b.

    Raises:
        InputError: if the list can't be parsed.
    """
    for part in re.findall(r"(?:[^,\[\]]|\[[^\]]*\])+", names):
        yield from _expand_brackets(part, names)


def _expand_brackets(part: str, names: str) -> Iterator[str]:
    found = re.fullmatch(r"([^\[\]]*)\[([^\[\]]+)\](.*)", part)
    if not found:
        if not part or set(part) & set("[]"):
            raise InputError(f"SLURM's node list {names!r} can't be parsed; set MASTER_ADDR to its first node.")
        yield part
        return
    head, ranges, tail = found.groups()
    for item in ranges.split(","):
        bounds = re.fullmatch(r"(\d+)(?:-(\d+))?", item)
        if not bounds:
            raise InputError(f"SLURM's node list {names!r} can't be parsed; set MASTER_ADDR to its first node.")
        first, last = bounds[1], bounds[2] or bounds[1]
        for number in range(int(first), int(last) + 1):
            yield from _expand_brackets(f"{head}{number:0{len(first)}d}{tail}", names)


def expand_tasks(counts: str) -> Iterator[int]:
    """
    Yield the tasks per node from SLURM's notation: "8(x2),4" gives 8, 8, 4.

    Raises:
        InputError: if it can't be parsed.
    """
    for item in counts.split(","):
        found = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", item)
        if not found:
            raise InputError(f"SLURM_STEP_TASKS_PER_NODE is {counts!r}; it must look like '8(x2),4'.")
        yield from [int(found[1])] * int(found[2] or 1)
