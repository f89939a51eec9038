"""Signals to a command line before there is anything to save."""

import contextlib
import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest

from balanced_lvis.console.command_line import command_line
from balanced_lvis.console.preemption import StopRequest
from balanced_lvis.console.signals import ends_at_once, held
from balanced_lvis.utils.errors import Preempted
from tests.common import CONFIGS, ROOT, rendered_opts
from tests.engine.forking import context, wait_for
from tests.engine.processes.test_launch import by_slurm, children, finished, run_forked, start

TRAIN_NET = (sys.executable, "-u", ROOT / "tools" / "train_net.py", "--config-file")
CONFIG = CONFIGS / "quick_start" / "balanced_sigmoid.yaml"


@command_line
def signal_itself(arguments):
    name, *rest = arguments
    with StopRequest() as stop:
        stop.at_once = "at once" in rest
        try:
            os.kill(os.getpid(), getattr(signal, name))
            time.sleep(60)
        except BaseException:
            if name != "SIGINT":
                raise AssertionError("an exception has passed through what was under way") from None
            raise


@pytest.fixture(autouse=True)
def heeds_ctrl_c():
    """Restore Ctrl-C as in a terminal: a background job and its processes ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def forked(tmp_path):
    """Exit status and standard error of a command line's ``main`` in a separate process."""

    def call(main, *arguments):
        files = [tmp_path / name for name in ("out", "err")]
        process = context.Process(target=run_forked, args=(files, main, arguments, {}))
        process.start()
        process.join(300)
        return process.exitcode, files[1].read_text()

    return call


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_signal_where_nothing_is_to_be_saved_ends_the_process_without_an_exception(name, forked):
    assert forked(signal_itself, name, "at once") == (75, f"Stopped at once by {name}.\n")


def interrupt_itself(arguments):
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # as in a program started from a terminal
    return signal_itself(["SIGINT"])


def test_ctrl_c_is_one_line_and_a_status_of_its_own(forked):
    assert forked(interrupt_itself) == (130, "error: interrupted\n")


def test_handlers_are_as_before_when_a_command_line_has_ended():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)]
    assert command_line(lambda: None)() == 0
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)] == before


@command_line
def hold_then_heed(arguments):
    with held():
        os.kill(os.getpid(), signal.SIGTERM)
        print("held", file=sys.stderr)
    time.sleep(60)


def test_signals_that_are_held_come_afterwards(forked):
    assert forked(hold_then_heed) == (75, "held\nStopped at once by SIGTERM.\n")


def test_what_unwinds_does_so_within_a_command_line_too():
    ended = []
    with pytest.raises(Preempted), ends_at_once(), StopRequest(unwinds=True) as stop:
        stop.at_once = True
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        finally:
            ended.append(True)
    assert ended


def imports_torch(pid: int) -> bool:
    with open(f"/proc/{pid}/maps") as maps:
        return "libtorch" in maps.read()


def imports(pid: int) -> bool:
    """Whether a tool has started its imports, but not finished them."""
    with open(f"/proc/{pid}/maps") as maps:
        return re.search(r"/torch/|_datetime|_ctypes|_socket", maps.read()) is not None


needs_proc = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")


@needs_proc
@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 75), ("SIGUSR1", 75), ("SIGINT", -signal.SIGINT)])
@pytest.mark.parametrize("tool", ["train_net", "compare"])
def test_a_signal_while_a_tool_imports_leaves_no_traceback(tool, name, status):
    process = start(sys.executable, ROOT / "tools" / f"{tool}.py", "--help")
    wait_for(lambda: imports(process.pid) or process.poll() is not None)
    process.send_signal(getattr(signal, name))
    assert finished(process) == (status, "", "")


def spawned(pid: int) -> list[int]:
    """The ranks among the processes of a launcher."""
    found = []
    for child in children(pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(child)
    return found


@needs_proc
@pytest.mark.parametrize(
    ("name", "moment", "status"),
    [("SIGTERM", "both started", 75), ("SIGTERM", "both import", 75), ("SIGINT", "both import", 130)],
)
def test_a_signal_while_ranks_start_ends_all_of_them(name, moment, status, rendered, tmp_path):
    process = start(*TRAIN_NET, CONFIG, "--num-gpus", 2, *rendered_opts(rendered, tmp_path / "out"))

    def reached():
        ranks = spawned(process.pid)
        return len(ranks) == 2 and (moment == "both started" or all(map(imports_torch, ranks)))

    wait_for(lambda: process.poll() is not None or reached())
    ranks = spawned(process.pid)
    if name == "SIGINT":  # a terminal sends it to all processes
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.send_signal(getattr(signal, name))
    found, _, err = finished(process)
    assert found == status, err
    assert "Traceback" not in err and len(ranks) == 2


@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_one_task_that_has_nothing_to_save_ends_the_others(rank, tmp_path):
    note = tmp_path / "at_work"
    tasks = by_slurm(tmp_path, FAIL="hang 0, hang 1", TIMEOUT="0", NOTE=str(note))
    wait_for(lambda: all((tmp_path / f"at_work_{number}").is_file() for number in range(2)))
    os.kill(tasks[rank]._process.pid, signal.SIGTERM)
    done = [finished(task) for task in tasks]
    assert [status for status, _, _ in done] == [75, 75], done
    shown = "".join(err for _, _, err in done)
    assert shown.count("Stopped at once by SIGTERM.\n") == 1
    assert "Traceback" not in shown and "error: " not in shown  # torch may log the lost connection
