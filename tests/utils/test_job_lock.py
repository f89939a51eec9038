"""Two jobs in one output folder: real processes, because a lock doesn't exclude its own process."""

import json
import os
import signal
import time

import pytest

from balanced_lvis.commands import train
from balanced_lvis.commands.export_checkpoint import Options, export_checkpoint
from balanced_lvis.config import load_config
from balanced_lvis.data.loader import DataLoader
from balanced_lvis.utils import job_lock as lock
from balanced_lvis.utils.errors import InputError
from balanced_lvis.utils.job_lock import LOCK, only_job_in
from tests.common import CONFIGS, rendered_opts
from tests.engine.forking import context


def hold(folder, ready, argv=("train_net.py", "--config-file", "a b.yaml"), workers=0):
    lock.sys.argv = list(argv)
    with only_job_in(folder):
        batches = iter(DataLoader(range(100), num_workers=workers)) if workers else None
        ready.send([worker.pid for worker in batches._workers] if batches else [])
        time.sleep(120)


@pytest.fixture
def start(tmp_path):
    """A process that holds the lock of ``tmp_path``, and the process ids of its data workers."""
    started = []

    def begin(**options):
        here, there = context.Pipe()
        process = context.Process(target=hold, args=(tmp_path, there), kwargs=options)
        process.start()
        started.append(process)
        assert here.poll(60)
        return process, here.recv()

    yield begin
    for process in started:
        process.kill()
        process.join()


@pytest.fixture(autouse=True)
def _no_patience(monkeypatch):
    monkeypatch.setattr(lock, "PATIENCE", 0.0)


def refused(folder) -> str:
    with pytest.raises(InputError) as caught, only_job_in(folder):
        pass
    return str(caught.value)


def test_a_second_job_is_refused_and_told_of_the_first_until_that_is_killed(start, tmp_path):
    first, _ = start()
    message = refused(tmp_path)
    assert f"OUTPUT_DIR '{tmp_path}' is in use by another job: process {first.pid} on host " in message
    assert "train_net.py --config-file 'a b.yaml'" in message and f"started at {time.strftime('%Y-')}" in message
    os.kill(first.pid, signal.SIGKILL)
    first.join()
    assert json.loads((tmp_path / LOCK).read_text())["process"] == first.pid
    with only_job_in(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["process"] == os.getpid()
    assert (tmp_path / LOCK).read_text() == ""


def test_data_workers_that_outlive_a_killed_job_do_not_have_its_lock(start, tmp_path):
    """Workers of torch, which don't watch their parent."""
    first, workers = start(workers=1)
    os.kill(first.pid, signal.SIGKILL)
    first.join()
    try:
        os.kill(workers[0], 0)
        with only_job_in(tmp_path):
            pass
    finally:
        os.kill(workers[0], signal.SIGKILL)


@pytest.mark.parametrize("text", ["", "[", "[]", '{"host": 1}', "[" * 5000, "\0" * 10])
def test_what_a_lock_file_says_keeps_nobody_out_and_may_be_anything(text, start, tmp_path):
    (tmp_path / LOCK).write_text(text)
    with only_job_in(tmp_path):
        pass
    start()
    (tmp_path / LOCK).write_text(text)
    assert "its process and command are unknown" in refused(tmp_path)


def test_a_command_is_shown_without_control_characters_and_not_at_any_length(start, tmp_path):
    start(argv=("a\x1b[31m\nerror: forged", "\udcff", "x" * 9000))
    message = refused(tmp_path)
    assert message.isprintable() and r"a\x1b[31m\nerror: forged" in message and "..." in message
    assert len(message) < 900


def test_a_job_that_is_just_ending_is_waited_for(start, tmp_path, monkeypatch):
    first, _ = start()
    monkeypatch.setattr(lock, "PATIENCE", 60.0)
    monkeypatch.setattr(lock.time, "sleep", lambda seconds: (first.kill(), first.join()))
    with only_job_in(tmp_path):
        pass


def test_a_lock_of_a_folder_that_was_deleted_meanwhile_is_no_lock_of_the_new_one(tmp_path, monkeypatch):
    is_locked, calls = lock._is_locked, []

    def deleted_before(file, folder):
        if not calls:
            os.unlink(tmp_path / LOCK)
        calls.append(file.name)
        return is_locked(file, folder)

    monkeypatch.setattr(lock, "_is_locked", deleted_before)
    with only_job_in(tmp_path):
        assert len(calls) == 2 and json.loads((tmp_path / LOCK).read_text())["process"] == os.getpid()


def test_without_locks_in_the_file_system_a_job_runs_and_says_so(tmp_path, monkeypatch, caplog):
    def lockf(*_):
        raise OSError(lock.errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "lockf", lockf)
    with only_job_in(tmp_path):
        pass
    assert "doesn't support locks (No locks available)" in caplog.text


def test_training_evaluating_and_exporting_are_refused_before_any_work(start, rendered, tmp_path, capsys):
    start()
    words = ["--config-file", CONFIGS / "quick_start" / "balanced_sigmoid.yaml", *rendered_opts(rendered, tmp_path)]
    assert train.main([*map(str, words)]) == 2
    assert "error: OUTPUT_DIR" in (err := capsys.readouterr().err) and "is in use by another job" in err
    args = train.argument_parser().parse_args([*map(str, words)])
    with pytest.raises(InputError, match="--output .* is in use by another job"):
        export_checkpoint(args, Options("rendered_val", str(tmp_path)))
    assert os.listdir(tmp_path) == [LOCK]


def test_two_evaluations_in_one_folder_are_refused_too(start, rendered, tmp_path, monkeypatch):
    start()
    monkeypatch.setattr(train, "read_config", lambda args, job: load_config("", ["OUTPUT_DIR", str(tmp_path)]))
    assert train.main(["--eval-only", "--predictions", "x.json", "OUTPUT_DIR", str(tmp_path)]) == 2
    assert os.listdir(tmp_path) == [LOCK]
