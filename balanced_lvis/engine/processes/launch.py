"""The processes of a job: started here, by torchrun or by SLURM, and ended together."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta

import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch.multiprocessing import ProcessExitedException, start_processes

from ...console.command_line import quiet
from ...console.printing import print_error
from ...console.signals import INTERRUPTED, ends_at_once, handled_by, held
from ...console.streams import kept_streams
from ...utils.errors import DivergedError, InputError, LostProcessError, StorageError
from ...utils.parent_process import end_with_parent
from ...utils.storage import clear_system_errors, is_storage_error
from .job import Job
from .watchdog import Limits, Watchdog, first_line, note

logger = logging.getLogger(__name__)

# How long processes wait for the first machine, and for the others in every exchange: rank 0 may evaluate meanwhile.
MEETING_TIMEOUT = timedelta(minutes=30)
TIMEOUT = timedelta(hours=2)
# Seconds that the others get to end by themselves once one process has failed.
GRACE = 10.0


def launch(
    job: Job, prepare: Callable[[], None], work: Callable[..., None], arguments: tuple = (), device: str = "cpu",
    limits: Limits | None = None,
) -> None:  # fmt: skip
    """
    Have every process of a job do its work.

    ``prepare`` is called once per machine, before any work, by the machine's first process; where torchrun or SLURM
    has started the processes, by rank 0 before the others. What it refuses, or a process meets later, is shown once,
    and ends all processes with the error's status.

    Args:
        job: as :func:`balanced_lvis.engine.processes.job.find_job` found it.
        prepare: whatever can go wrong before work starts.
        work: called with ``arguments`` in every process; both can be pickled.
        device: "cuda", where every process of a machine gets a GPU of its own, or "cpu".
        limits: None: the defaults; after which a dead or stuck process ends the job, with
            :attr:`balanced_lvis.utils.errors.LostProcessError.exit_status`.

    Raises:
        InputError, DivergedError: of a job of one process.
        LostProcessError: if a process that was started here was killed.
        SystemExit: with the status of a process that has shown its error itself.
    """
    limits = limits or Limits()
    if job.world_size == 1 and not job.started_by_others:
        prepare()
        work(*arguments)
    elif job.started_by_others:
        with _errors_shown_once(), _joined(job, device, limits):
            _prepare_in_turn(job, prepare)
            work(*arguments)
    else:
        prepare()
        _start(job, work, arguments, device, limits)


def _start(job: Job, work, arguments, *options) -> None:
    """Start this machine's processes and wait for them."""
    store = None
    if job.rank == 0:  # kept here, so that it outlives any of them
        store = _store(job, is_host=True)
        job = replace(job, port=store.port)
    job = replace(job, hosts_store=False)
    with contextlib.ExitStack() as stack:
        with held():
            context = start_processes(_child, (job, work, arguments, *options), nprocs=job.children, join=False)
            stack.enter_context(_forwarding_signals(context.processes))
        try:
            while not context.join(grace_period=GRACE):
                pass
        except ProcessExitedException as error:
            _end_as_child(job, error)
        except KeyboardInterrupt:
            for process in context.processes:
                process.kill()
            raise
    del store


def _end_as_child(job: Job, error: ProcessExitedException) -> None:
    if error.exit_code > 0:  # it has said why
        raise SystemExit(error.exit_code) from None
    pid = error.pid if hasattr(error, "pid") else error.error_pid  # older torch and newer
    raise LostProcessError(
        f"rank {job.rank + error.error_index} (process {pid}) was ended by {error.signal_name}"
        f"{_hint(error.signal_name)}; the other processes were stopped. --resume goes on from the last checkpoint."
    ) from None


def _hint(signal_name: str | None) -> str:
    return ", which is what a machine out of memory does" if signal_name == "SIGKILL" else ""


def _child(index: int, job: Job, work, arguments, *options) -> None:
    quiet()
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the one that started them ends them
    joined = _joined(replace(job, rank=job.rank + index, children=0), *options)
    with kept_streams(), ends_at_once(), _errors_shown_once(), joined:
        work(*arguments)


@contextlib.contextmanager
def _forwarding_signals(processes) -> Iterator[None]:
    """A scheduler that ends a job may tell its first process only."""

    def forward(number, frame):
        for process in processes:
            if process.is_alive():
                os.kill(process.pid, number)

    with handled_by(forward):
        yield


@contextlib.contextmanager
def _joined(job: Job, device: str, limits: Limits) -> Iterator[None]:
    """Meet the other processes; on the machine's GPU of this process's number, where GPUs are used."""
    on_gpu = device.startswith("cuda")
    if on_gpu:
        # SLURM may show each task no GPU but its own.
        torch.cuda.set_device(job.local_rank if torch.cuda.device_count() > 1 else 0)
    # Kept, as rank 0's keeps everybody's; and its answers are only of this attempt.
    store = _store(job, is_host=job.hosts_store and job.rank == 0)
    timeout = max(TIMEOUT, timedelta(seconds=limits.slow_timeout))
    dist.init_process_group(
        "nccl" if on_gpu else "gloo", store=_of_attempt(job, store), rank=job.rank, world_size=job.world_size,
        timeout=timeout,
    )  # fmt: skip
    _make_local_groups(job.local_size)
    _make_exchange_group(timeout)
    with _watched(job, limits):
        yield
    dist.destroy_process_group()


@contextlib.contextmanager
def _watched(job: Job, limits: Limits) -> Iterator[None]:
    if job.world_size == 1:
        comm.synchronize()
        yield
        comm.synchronize()
        return
    host = "rank 0, which keeps the job's store," if job.hosts_store else "the launcher"
    note("starting", slow=True)
    watchdog = Watchdog(
        lambda: _of_attempt(job, _store(job, False)), job.rank, job.world_size, limits, host,
        keeps_store=job.hosts_store and job.rank == 0,
    )  # fmt: skip
    comm.synchronize()
    watchdog.start()
    try:
        with ends_at_once(watchdog.say_goodbye):
            yield
    except BaseException as error:
        watchdog.explain(error)
        watchdog.say_goodbye(_status(error))
        raise
    note("waiting for the others to end", slow=True, waiting=True)
    # Not where an exception passes: the others may never come.
    comm.synchronize()
    watchdog.stop()
    comm.synchronize()  # so that nobody takes the first to end for dead


def _status(error: BaseException) -> int:
    """Of a process that ends by ``error``."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if is_storage_error(error):  # which becomes a message further out
        return StorageError.exit_status
    status = getattr(error, "exit_status", error.code if isinstance(error, SystemExit) else 1)
    return status if isinstance(status, int) and status else 1


def _of_attempt(job: Job, store: dist.Store) -> dist.Store:
    return dist.PrefixStore(f"attempt_{job.attempt}", store)


def _store(job: Job, is_host: bool) -> dist.TCPStore:
    """What processes find each other by."""
    try:
        return dist.TCPStore(job.address, job.port, is_master=is_host, timeout=MEETING_TIMEOUT, wait_for_workers=False)
    except (RuntimeError, OSError) as error:
        meeting = f"{job.address}:{job.port}"
        if is_host:
            raise InputError(
                f"{meeting}, where the processes are to meet, can't be opened ({first_line(error)}); choose another "
                "port, or the name by which the other machines know this one."
            ) from error
        raise InputError(
            f"The first machine doesn't answer at {meeting} ({first_line(error)}); is the job running there, and may "
            "this machine connect to that port?"
        ) from error


def _make_local_groups(local_size: int) -> None:
    """What Detectron2 knows a process's number on its machine by."""
    if hasattr(comm, "create_local_process_group"):
        comm.create_local_process_group(local_size)
        return
    for first in range(0, comm.get_world_size(), local_size):  # Detectron2 before mid-2021
        ranks = list(range(first, first + local_size))
        group = dist.new_group(ranks)
        if comm.get_rank() in ranks:
            comm._LOCAL_PROCESS_GROUP = group


def _make_exchange_group(timeout: timedelta) -> None:
    """
    What Detectron2 exchanges Python objects over beside NCCL, and evaluation its files. Detectron2's own would have
    torch's default of 30 minutes, in which rank 0 may still be evaluating.
    """
    if dist.get_backend() == "nccl":
        group = dist.new_group(backend="gloo", timeout=timeout)
        comm._get_global_gloo_group = lambda: group


def _prepare_in_turn(job: Job, prepare) -> None:
    """Rank 0, then the first process of every other machine, which may have a disk of its own."""
    turns = (lambda rank: rank == 0, lambda rank: rank and not rank % job.local_size)
    for has_turn in turns:
        failure = None
        if has_turn(job.rank):
            try:
                prepare()
            except (InputError, DivergedError) as error:
                failure = error
        failures = comm.all_gather(failure and (failure.exit_status, str(failure)))
        status, message = next(filter(None, failures), (None, None))
        if status is not None:
            if comm.is_main_process():
                print_error(message)
            raise SystemExit(status)


@contextlib.contextmanager
def _errors_shown_once() -> Iterator[None]:
    """What several processes meet is shown by the first of them; all of them end with the error's status."""
    try:
        with clear_system_errors():
            yield
    except (InputError, DivergedError) as error:
        if _is_first_to_fail():
            print_error(error if comm.is_main_process() else f"rank {comm.get_rank()}: {error}")
        raise SystemExit(error.exit_status) from None


def _is_first_to_fail() -> bool:
    if not dist.is_initialized():  # it could not meet the others
        return True
    try:
        return dist.distributed_c10d._get_default_store().add("failures", 1) == 1
    except RuntimeError:  # the store was in a process that has ended, which has shown its error
        return comm.is_main_process()
