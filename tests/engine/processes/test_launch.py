"""Jobs of real processes, started in every way: rendezvous, errors shown once, and a common end."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from detectron2.utils import comm

from balanced_lvis.commands.train import main
from balanced_lvis.engine.processes import launch
from tests import programs
from tests.common import CONFIGS, ROOT, rendered_opts
from tests.engine.forking import context
from tests.engine.processes import launched

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
CONFIG = CONFIGS / "quick_start" / "balanced_sigmoid.yaml"


def start(*command, **environ) -> subprocess.Popen:
    """A command in a new session, so that it can be killed with all its processes."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environ}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*map(str, command)], env=env, cwd=ROOT, start_new_session=True, **pipes)


def finished(process) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def run_forked(files, main, arguments, environ):
    for number, path in enumerate(files, start=1):
        os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY), number)
    sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))  # noqa: SIM115
    os.environ.update(environ)
    sys.exit(main([*map(str, arguments)]))


class Forked:
    """Like ``start`` for the ``main`` of a command line, without repeating the imports."""

    def __init__(self, folder, rank, environ, main, arguments):
        self._files = [folder / f"{name}_{rank}" for name in ("out", "err")]
        self._process = context.Process(target=run_forked, args=(self._files, main, arguments, environ))
        self._process.start()

    def communicate(self, timeout):
        self._process.join(timeout)
        return [path.read_text() for path in self._files]

    def kill(self):
        self._process.kill()
        self._process.join()

    @property
    def returncode(self):
        return self._process.exitcode


def children(pid: int) -> list[int]:
    """Process ids of the children of a process, on Linux; none of one that has ended."""
    try:
        own = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []
    return own + [below for child in own for below in children(child)]


def by_arguments(folder, **environ):
    return [programs.Program("-m", "tests.engine.processes.launched", folder, "--num-gpus", 2, cwd=ROOT, **environ)]


def by_torchrun(folder, **environ):
    return [start(*TORCHRUN, "-m", "tests.engine.processes.launched", folder, **environ)]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def by_slurm(folder, main=launched.main, arguments=None, **environ):
    arguments = [folder] if arguments is None else arguments
    port = str(free_port())
    step = {
        "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_STEP_NODELIST": "localhost",
        "MASTER_PORT": port,
    }  # fmt: skip
    tasks = [{"SLURM_PROCID": str(rank), **step, **environ} for rank in range(2)]
    return [Forked(folder, rank, task, main, arguments) for rank, task in enumerate(tasks)]


# Processes that meet by arguments are in test_run.py, by torchrun below.
def test_slurm_tasks_meet_after_one_of_them_has_prepared(tmp_path):
    done = [finished(process) for process in by_slurm(tmp_path)]
    assert {status for status, _, _ in done} == {0}, done
    assert sum(out.count("prepared") for _, out, _ in done) == 1
    for rank in range(2):
        assert (tmp_path / f"rank{rank}").read_text() == f"{rank} of 2, {rank} of 2: 3\n"


def test_two_machines_meet_at_the_address_that_both_are_told(tmp_path):
    address = f"tcp://127.0.0.1:{free_port()}"
    command = ("-m", "tests.engine.processes.launched", tmp_path, "--num-machines", 2, "--dist-url", address)
    with contextlib.ExitStack() as stack:
        machines = [
            stack.enter_context(programs.Program(*command, "--machine-rank", rank, cwd=ROOT)) for rank in range(2)
        ]
        done = [finished(process) for process in machines]
    assert {status for status, _, _ in done} == {0}, done
    for rank in range(2):
        assert (tmp_path / f"rank{rank}").read_text() == f"{rank} of 2, 0 of 1: 3\n"


@pytest.mark.parametrize("launcher", [by_torchrun, by_slurm])
def test_what_is_refused_at_the_start_is_shown_once_and_ends_all(launcher, tmp_path):
    done = [finished(process) for process in launcher(tmp_path, FAIL="prepare")]
    # torchrun has its own exit status.
    assert {status for status, _, _ in done} == {1 if launcher is by_torchrun else 2}, done
    text = "".join(err for _, _, err in done)
    assert text.count("nothing to work on") == text.count("error: ") == 1, text


NUMBER_FROM_DATA = ("--config-file", CONFIG, "MODEL.ROI_HEADS.NUM_CLASSES", 0)


def test_data_that_can_not_be_asked_for_their_classes_are_refused_once(tmp_path):
    opts = ("DATASETS.TRAIN", "('mine',)", "DATASETS.CUSTOM.mine.JSON", tmp_path / "nowhere.json")
    opts += ("OUTPUT_DIR", tmp_path / "out", "MODEL.DEVICE", "cpu", "DATASETS.CUSTOM.mine.IMAGES", tmp_path)
    done = [finished(process) for process in by_slurm(tmp_path, main, [*NUMBER_FROM_DATA, *opts])]
    assert [status for status, _, _ in done] == [2, 2], done
    text = "".join(err for _, _, err in done)
    assert text.count("nowhere.json") == text.count("error: ") == 1, text


def test_all_tasks_of_a_job_take_the_number_of_classes_from_the_data(rendered, tmp_path):
    opts = rendered_opts(rendered, tmp_path / "out")
    at = opts.index("MODEL.ROI_HEADS.NUM_CLASSES")
    opts[at : at + 2] = ["DATASETS.TEST", "()"]
    words = [*NUMBER_FROM_DATA, *opts, "SOLVER.MAX_ITER", 1]
    done = [finished(process) for process in by_slurm(tmp_path, main, words)]
    assert [status for status, _, _ in done] == [0, 0], done
    assert "NUM_CLASSES: 12" in (tmp_path / "out" / "config.yaml").read_text()


def test_an_error_of_one_process_alone_is_shown_and_ends_all(tmp_path):
    (done,) = (finished(process) for process in by_arguments(tmp_path, FAIL="rank 1"))
    assert done[0] == 2
    assert done[2] == "error: rank 1: a bad file\n"


@pytest.mark.parametrize(("rank", "who"), [(0, ""), (1, "rank 1: ")])
def test_an_error_of_one_task_alone_ends_the_other(rank, who, tmp_path):
    done = [finished(process) for process in by_slurm(tmp_path, FAIL=f"rank {rank}")]
    assert [status for status, _, _ in done] == [2, 2]
    assert done[rank][2] == f"error: {who}a bad file\n"
    assert "error: " not in done[1 - rank][2]


def test_a_full_disk_that_one_task_meets_ends_the_other_with_the_same_status(tmp_path):
    done = [finished(process) for process in by_slurm(tmp_path, FAIL="full 1")]
    assert [status for status, _, _ in done] == [4, 4], done
    assert done[1][2] == "error: rank 1: '/elsewhere/file' can't be written: the disk is full.\n"


@pytest.mark.parametrize("rank", [0, 1])
def test_without_a_timeout_a_task_that_fails_still_ends_one_that_does_not_meet_it(rank, tmp_path):
    done = [finished(process) for process in by_slurm(tmp_path, FAIL=f"rank {rank}, hang {1 - rank}", TIMEOUT="0")]
    assert [status for status, _, _ in done] == [2, 2], done
    assert "".join(err for _, _, err in done).count("error: ") == 1


def test_without_a_timeout_nobody_is_ended_for_being_slow(tmp_path):
    done = [finished(process) for process in by_slurm(tmp_path, FAIL="slow 0", TIMEOUT="0")]
    assert [(status, err) for status, _, err in done] == [(0, "")] * 2


def test_a_killed_process_ends_the_others_and_is_named(tmp_path):
    command = (sys.executable, "-m", "tests.engine.processes.launched", tmp_path, "--num-gpus", 2)
    done = finished(start(*command, FAIL="kill 1"))  # new Pythons
    assert done[0] == 5
    assert "error: rank 1 (process" in done[2] and "was ended by SIGKILL" in done[2]


@pytest.mark.parametrize(
    ("fail", "message"),
    [
        ("hang 1", "rank 1 has been stuck for"),
        ("stop 1", "rank 1 has sent no heartbeat"),
        ("stop 0", "rank 0, which hosts the job's store, has not answered"),
        ("kill 1", "rank 1 has sent no heartbeat"),
    ],
)
def test_a_stuck_process_ends_the_job_and_is_named(fail, message, tmp_path):
    processes = by_slurm(tmp_path, FAIL=fail)
    gone = [] if fail == "hang 1" else [processes.pop(int(fail[-1]))]
    done = [finished(process) for process in processes]
    for process in gone:
        process.kill()
    assert {status for status, _, _ in done} == {5}, done
    text = "".join(err for _, _, err in done)
    assert message in text, text
    assert text.count("error: ") == 1, text
    if fail == "hang 1":
        assert "loading the images of iteration 7" in text


def test_one_slow_process_for_which_the_others_wait_is_no_stuck_one(tmp_path):
    done = [finished(process) for process in by_slurm(tmp_path, FAIL="slow 0")]
    assert [(status, err) for status, _, err in done] == [(0, "")] * 2


def train(rendered, output, *flags, **overrides) -> list:
    opts = [str(word) for key, value in overrides.items() for word in (key.replace("__", "."), value)]
    net = ROOT / "tools" / "train_net.py"
    return [net, "--config-file", CONFIG, *flags, *rendered_opts(rendered, output), *opts]


def kill_when(process: subprocess.Popen, reached) -> None:
    deadline = time.monotonic() + 120
    while not reached() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert reached()
    for pid in [process.pid, *children(process.pid)]:  # torchrun's processes outlive it
        os.kill(pid, signal.SIGKILL)
    process.communicate()


@pytest.mark.slow
def test_torchrun_is_killed_goes_on_and_evaluates_to_the_numbers_of_an_undisturbed_run(rendered, tmp_path):
    runs = ("straight", "killed", "again")
    schedule = {"SOLVER__MAX_ITER": 12, "SOLVER__CHECKPOINT_PERIOD": 4}
    undisturbed = programs.run(*train(rendered, tmp_path / "straight", "--num-gpus", 2, **schedule))
    assert undisturbed.returncode == 0, undisturbed.stderr[-3000:]
    killed = start(*TORCHRUN, *train(rendered, tmp_path / "killed", **schedule))
    kill_when(killed, (tmp_path / "killed" / "last_checkpoint").is_file)
    status, _, err = finished(start(*TORCHRUN, *train(rendered, tmp_path / "killed", "--resume", **schedule)))
    assert status == 0, err[-3000:]
    straight, resumed = (
        torch.load(tmp_path / name / "model_final.pth", weights_only=True) for name in ("straight", "killed")
    )
    assert resumed["iteration"] == straight["iteration"] == 11
    assert resumed["model"].keys() == straight["model"].keys()
    assert all(torch.equal(tensor, resumed["model"][name]) for name, tensor in straight["model"].items())
    weights = tmp_path / "killed" / "model_final.pth"
    flags = ("--eval-only", "--num-gpus", 2)
    again = programs.run(*train(rendered, tmp_path / "again", *flags, MODEL__WEIGHTS=weights))
    assert again.returncode == 0, again.stderr[-3000:]
    folders = {name: tmp_path / name / ("evaluation" if name == "again" else "") for name in runs}
    results = {name: json.loads((folder / "results.json").read_text()) for name, folder in folders.items()}
    assert results["straight"] == results["killed"] == results["again"]


@pytest.mark.parametrize("backend", ["gloo", "nccl"])
def test_exchanges_beside_nccl_have_the_jobs_own_time_limit(monkeypatch, backend):
    made = []
    monkeypatch.setattr(torch.distributed, "get_backend", lambda: backend)
    monkeypatch.setattr(torch.distributed, "new_group", lambda **options: made.append(options) or "a group")
    monkeypatch.setattr(comm, "_get_global_gloo_group", comm._get_global_gloo_group)  # restored after the test
    launch._make_exchange_group(timedelta(hours=3))
    if backend == "gloo":
        assert not made
    else:
        assert made == [{"backend": "gloo", "timeout": timedelta(hours=3)}]
        assert comm._get_global_gloo_group() == "a group"
