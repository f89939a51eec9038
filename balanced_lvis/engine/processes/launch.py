"""Starts the processes of a job, or joins those started by torchrun or SLURM, and ends them together."""

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
from ...utils.text import first_line
from .job import Job
from .watchdog import Limits, Watchdog, note

logger = logging.getLogger(__name__)

# Time limits of the rendezvous, and of every collective call: rank 0 may still be evaluating.
MEETING_TIMEOUT = timedelta(minutes=30)
TIMEOUT = timedelta(hours=2)
# Seconds for the other processes to end by themselves after one has failed.
GRACE = 10.0


def launch(
    job: Job, prepare: Callable[[], None], work: Callable[..., None], arguments: tuple = (), device: str = "cpu",
    limits: Limits | None = None,
) -> None:  # fmt: skip
    """
    Run a job: prepare, then work in every process.

    ``prepare`` is called once per machine by its first process, before any work; if torchrun or SLURM has started the
    processes, by rank 0 first. An error of ``prepare`` or of any process is shown once, and ends all processes with the
    status of the error.

    Args:
        job: from :func:`balanced_lvis.engine.processes.job.find_job`.
        prepare: checks that run before work starts.
        work: called with ``arguments`` in every process; both must be picklable.
        device: "cuda", with one GPU per process, or "cpu".
        limits: time limits after which a dead or stuck process ends the job with
            :attr:`balanced_lvis.utils.errors.LostProcessError.exit_status`; None for the defaults.

    Raises:
        InputError, DivergedError: in a job with one process.
        LostProcessError: if a process started here was killed.
        SystemExit: with the status of a process that has already shown its error.
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
    """Start the processes of this machine and wait for them."""
    store = None
    if job.rank == 0:  # hosted by this process, so that it outlives them
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
    if error.exit_code > 0:  # it has reported its error
        raise SystemExit(error.exit_code) from None
    pid = error.pid if hasattr(error, "pid") else error.error_pid  # older torch and newer
    raise LostProcessError(
        f"rank {job.rank + error.error_index} (process {pid}) was ended by {error.signal_name}"
        f"{_hint(error.signal_name)}; the other processes were stopped. --resume continues from the last checkpoint."
    ) from None


def _hint(signal_name: str | None) -> str:
    return ", which often means that the machine ran out of memory" if signal_name == "SIGKILL" else ""


def _child(index: int, job: Job, work, arguments, *options) -> None:
    quiet()
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; their parent ends them
    joined = _joined(replace(job, rank=job.rank + index, children=0), *options)
    with kept_streams(), ends_at_once(), _errors_shown_once(), joined:
        work(*arguments)


@contextlib.contextmanager
def _forwarding_signals(processes) -> Iterator[None]:
    """Forward signals to the children: a scheduler may signal only the first process of a job."""

    def forward(number, frame):
        for process in processes:
            if process.is_alive():
                os.kill(process.pid, number)

    with handled_by(forward):
        yield


@contextlib.contextmanager
def _joined(job: Job, device: str, limits: Limits) -> Iterator[None]:
    """Join the process group of the job, on the GPU of this process's local rank if GPUs are used."""
    on_gpu = device.startswith("cuda")
    if on_gpu:
        # SLURM may show each task only its own GPU.
        torch.cuda.set_device(job.local_rank if torch.cuda.device_count() > 1 else 0)
    # Kept alive, because rank 0's serves all processes. The prefix separates the attempts.
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
    host = "rank 0, which hosts the job's store," if job.hosts_store else "the launcher"
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
    # Not after an exception: the others may never get here.
    comm.synchronize()
    watchdog.stop()
    comm.synchronize()  # so that the first process to end is not reported as dead


def _status(error: BaseException) -> int:
    """The exit status of a process that ends by ``error``."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if is_storage_error(error):  # becomes a StorageError further out
        return StorageError.exit_status
    status = getattr(error, "exit_status", error.code if isinstance(error, SystemExit) else 1)
    return status if isinstance(status, int) and status else 1


def _of_attempt(job: Job, store: dist.Store) -> dist.Store:
    return dist.PrefixStore(f"attempt_{job.attempt}", store)


def _store(job: Job, is_host: bool) -> dist.TCPStore:
    """The store by which the processes find each other."""
    try:
        return dist.TCPStore(job.address, job.port, is_master=is_host, timeout=MEETING_TIMEOUT, wait_for_workers=False)
    except (RuntimeError, OSError) as error:
        meeting = f"{job.address}:{job.port}"
        if is_host:
            raise InputError(
                f"{meeting}, the address of the rendezvous, can't be opened ({first_line(error)}); choose another "
                "port, or the host name by which other machines reach this one."
            ) from error
        raise InputError(
            f"The first machine doesn't answer at {meeting} ({first_line(error)}); check that the job is running "
            "there, and that this machine can connect to that port."
        ) from error


def _make_local_groups(local_size: int) -> None:
    """Create the process groups by which Detectron2 finds a process's local rank."""
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
    Create the Gloo group by which Detectron2 exchanges Python objects next to NCCL, and evaluation its files.

    Detectron2's own group would have torch's default limit of 30 minutes; rank 0 may evaluate for longer.
    """
    if dist.get_backend() == "nccl":
        group = dist.new_group(backend="gloo", timeout=timeout)
        comm._get_global_gloo_group = lambda: group


def _prepare_in_turn(job: Job, prepare) -> None:
    """Prepare on rank 0, then on the first process of every other machine, which may have its own disk."""
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
    """Show an error of several processes once, by the first of them; all end with the status of the error."""
    try:
        with clear_system_errors():
            yield
    except (InputError, DivergedError) as error:
        if _is_first_to_fail():
            print_error(error if comm.is_main_process() else f"rank {comm.get_rank()}: {error}")
        raise SystemExit(error.exit_status) from None


def _is_first_to_fail() -> bool:
    if not dist.is_initialized():  # it could not join the others
        return True
    try:
        return dist.distributed_c10d._get_default_store().add("failures", 1) == 1
    except RuntimeError:  # the host of the store has ended, and has shown its error
        return comm.is_main_process()
