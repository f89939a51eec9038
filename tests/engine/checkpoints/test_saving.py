"""Checkpoints are whole or not there, on disks that are full too, and a signal saves one more."""

import errno
import os
import signal
import time

import pytest
import torch
from detectron2.engine import TrainerBase

from balanced_lvis.console.preemption import StopRequest
from balanced_lvis.engine.checkpoints.checkpoint_folder import newest_checkpoint
from balanced_lvis.engine.checkpoints.saving import DurableSaves, SaveHook
from balanced_lvis.utils.errors import Preempted, StorageError
from balanced_lvis.utils.io import replacing
from balanced_lvis.utils.storage import check_space, check_writable, clear_errors
from tests import programs
from tests.common import CONFIGS, ROOT, rendered_opts
from tests.engine.forking import wait_for

NO_SPACE = OSError(errno.ENOSPC, "No space left on device")


class Counter:
    """A training's state: how far it is."""

    def __init__(self, iteration=0):
        self.iteration = iteration

    def state_dict(self):
        return {"iteration": self.iteration, "run": "a"}

    def load_state_dict(self, state):
        self.iteration = state["iteration"]


@pytest.fixture
def checkpointer(tmp_path):
    made = DurableSaves(torch.nn.Linear(30, 30), str(tmp_path), trainer=Counter(4))
    made.save("model_0000004")
    made.checkpointables["trainer"].iteration = 9
    return made


def fail(monkeypatch, part, error=NO_SPACE):
    def failing(*args, **kwargs):
        raise error

    monkeypatch.setattr(part, failing)


@pytest.mark.parametrize("part", ["os.fsync", "os.replace", "os.fsync in torch"])
def test_a_full_disk_is_one_clear_error_and_the_checkpoint_before_survives(checkpointer, monkeypatch, tmp_path, part):
    with monkeypatch.context() as patch:
        if part == "os.fsync in torch":
            save = torch.save
            patch.setattr(torch, "save", lambda content, file: save(content, Limited(file, 500)))
        else:
            fail(patch, part)
        with pytest.raises(StorageError, match=r"can't be written to: the disk is full.*--resume"):
            checkpointer.save("model_0000009")
    assert newest_checkpoint(tmp_path).endswith("model_0000004.pth")
    assert sorted(os.listdir(tmp_path)) == ["last_checkpoint", "model_0000004.pth"]
    checkpointer.save("model_0000009")
    assert newest_checkpoint(tmp_path).endswith("model_0000009.pth")


class Limited:
    """A file on a disk that is soon full."""

    def __init__(self, file, room):
        self._file, self._room = file, room

    def write(self, data):
        self._room -= len(data)
        if self._room < 0:
            raise NO_SPACE
        return self._file.write(data)

    def flush(self):
        self._file.flush()


def test_a_note_that_can_not_be_written_costs_no_checkpoint(checkpointer, monkeypatch, tmp_path):
    replace = os.replace
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda a, b: fail_on_note(b) or replace(a, b))
        with pytest.raises(StorageError):
            checkpointer.save("model_0000009")
    assert newest_checkpoint(tmp_path).endswith("model_0000009.pth")


def fail_on_note(path):
    if path.endswith("last_checkpoint"):
        raise NO_SPACE


def test_a_really_full_device_is_reported(tmp_path):
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full")
    with pytest.raises(StorageError, match="the disk is full"), clear_errors(tmp_path), open("/dev/full", "wb") as file:
        torch.save({"w": torch.zeros(10_000)}, file)


def test_errors_that_no_disk_causes_are_left_as_they_are(tmp_path):
    for error in (OSError(errno.ECONNRESET, "reset"), RuntimeError("a bug"), ValueError("a bug")):
        with pytest.raises(type(error)), clear_errors(tmp_path):
            raise error


def test_a_file_in_the_output_folders_place_is_refused_before_work_starts(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in ("file", "file/below"):
        with pytest.raises(StorageError, match="OUTPUT_DIR"):
            check_writable(tmp_path / folder)
    check_writable(tmp_path / "new" / "folder")
    assert os.listdir(tmp_path / "new" / "folder") == []


def test_a_read_only_folder_is_refused_before_work_starts(tmp_path, monkeypatch):
    """By a mock, as root may write anywhere."""
    monkeypatch.setattr("builtins.open", lambda *args, **kwargs: fail_read_only())
    with pytest.raises(StorageError, match="read-only"):
        check_writable(tmp_path)


def fail_read_only():
    raise OSError(errno.EROFS, "Read-only file system")


def test_room_for_one_checkpoint_is_needed(tmp_path):
    check_space(tmp_path, 1000)
    with pytest.raises(StorageError, match=r"has .* MB of free disk space, but one checkpoint takes about \d+ MB"):
        check_space(tmp_path, 10**18)


def test_replacing_leaves_the_old_file_when_the_writer_fails(tmp_path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(KeyError), replacing(tmp_path / "a") as file:
        file.write("new")
        raise KeyError
    assert (tmp_path / "a").read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


# ------------------------------------------------------------------ signals


class Steps(TrainerBase):
    """A trainer whose steps do what they are given."""

    def __init__(self, steps=()):
        super().__init__()
        self.steps = dict(steps)
        self.optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(3))], 0.1)

    def run_step(self):
        self.steps.get(self.iter, int)()


def run_steps(tmp_path, steps, iterations=6, period=100, start=0, before_save=int, **more):
    counter = Counter()
    with StopRequest() as stop:
        trainer = Steps(steps)
        trainer.register_hooks(
            [
                SaveHook(
                    DurableSaves(torch.nn.Linear(2, 2), str(tmp_path), trainer=counter, **more), period, stop,
                    before_save=before_save,
                )
            ]
        )  # fmt: skip
        counter.state_dict = lambda: {"iteration": trainer.iter, "run": "a"}
        trainer.train(start, iterations)
    return trainer


def test_what_processes_have_to_agree_on_is_asked_for_before_every_save_also_of_a_run_that_is_asked_to_stop(tmp_path):
    asked = []
    steps = {3: lambda: os.kill(os.getpid(), signal.SIGTERM)}
    with pytest.raises(Preempted):
        run_steps(tmp_path, steps, period=2, before_save=lambda: asked.append(sorted(os.listdir(tmp_path))))
    assert asked == [[], ["last_checkpoint", "model_0000001.pth"]]
    run_steps(tmp_path, {}, period=100, iterations=5, start=4, before_save=lambda: asked.append("final"))
    assert asked[2:] == ["final"]
    with pytest.raises(Preempted):
        run_steps(tmp_path, {5: steps[3]}, period=100, iterations=9, start=5, before_save=lambda: asked.append("stop"))
    assert asked[3:] == ["stop"]


def test_room_is_wanted_for_averaged_weights_too(tmp_path, monkeypatch):
    wanted = []
    monkeypatch.setattr("balanced_lvis.engine.checkpoints.saving.check_space", lambda folder, size: wanted.append(size))
    run_steps(tmp_path, {}, iterations=1)
    run_steps(tmp_path, {}, iterations=1, ema=Counter())
    assert wanted[1] - wanted[0] == 6 * 4  # the numbers of the model


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_signal_saves_after_the_step_under_way_and_ends_the_run(tmp_path, name, caplog):
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Preempted) as caught:
        run_steps(tmp_path, {2: lambda: os.kill(os.getpid(), signal.Signals[name])})
    assert caught.value.code == 75
    assert newest_checkpoint(tmp_path).endswith("model_0000002.pth")
    assert f"Asked to stop ({name}): saved after iteration 2" in caplog.text
    assert signal.getsignal(signal.SIGTERM) is handler


def test_a_signal_in_the_last_step_leaves_the_final_checkpoint(tmp_path):
    with pytest.raises(Preempted):
        run_steps(tmp_path, {5: lambda: os.kill(os.getpid(), signal.SIGTERM)})
    assert sorted(os.listdir(tmp_path)) == ["last_checkpoint", "model_final.pth"]


def test_a_run_that_was_killed_before_its_final_checkpoint_gets_it_when_resumed(tmp_path):
    run_steps(tmp_path, {}, iterations=4, period=4)
    (tmp_path / "model_final.pth").unlink()
    run_steps(tmp_path, {}, iterations=4, start=4)
    assert (tmp_path / "model_final.pth").read_bytes() == (tmp_path / "model_0000003.pth").read_bytes()
    assert newest_checkpoint(tmp_path).endswith("model_final.pth")


def test_without_a_signal_checkpoints_are_periodic_and_one_is_final(tmp_path):
    run_steps(tmp_path, {}, iterations=5, period=2)
    assert sorted(path.name for path in tmp_path.glob("*.pth")) == [
        "model_0000001.pth", "model_0000003.pth", "model_final.pth",
    ]  # fmt: skip


def test_where_nothing_can_be_lost_a_signal_ends_the_process_at_once():
    with pytest.raises(Preempted), StopRequest() as stop:
        stop.at_once = True
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)


def test_a_data_worker_that_the_signal_has_ended_is_no_error_of_its_own():
    with pytest.raises(Preempted), StopRequest():
        os.kill(os.getpid(), signal.SIGTERM)
        raise RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly")
    for error in (RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"), KeyError("a bug")):
        with pytest.raises(type(error)), StopRequest():
            raise error


def test_a_forked_worker_outlives_the_first_signal_and_not_the_second():
    read, write = os.pipe()
    with StopRequest():
        pid = os.fork()
        if pid == 0:
            os.write(write, b".")
            time.sleep(30)
            time.sleep(30)
            os._exit(0)
        os.read(read, 1)
        os.kill(pid, signal.SIGTERM)
        time.sleep(0.3)
        assert os.waitpid(pid, os.WNOHANG) == (0, 0)
        os.kill(pid, signal.SIGTERM)
        assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGTERM


@pytest.mark.parametrize("processes", [1, 2])
def test_a_job_that_is_asked_to_stop_exits_with_75_and_resumes(rendered, tmp_path, processes):
    output = tmp_path / "out"
    opts = [*rendered_opts(rendered, output), "SOLVER.MAX_ITER", "100000", "SEED", "1", "DATALOADER.NUM_WORKERS", "1"]
    config = CONFIGS / "quick_start" / "balanced_sigmoid.yaml"
    flags = ["--num-gpus", str(processes), "--dist-url", "auto"]
    command = [ROOT / "tools" / "train_net.py", "--config-file", config, *flags]
    with programs.Program(*command, *opts, output=tmp_path / "printed") as job:
        wait_for(lambda: "Starting training" in job.shown() or job.returncode is not None)
        time.sleep(1.5)
        job.send_signal(signal.SIGTERM)
        printed, _ = job.communicate()
    assert job.returncode == 75, printed
    assert "Asked to stop (SIGTERM)" in printed
    assert "Traceback" not in printed
    (saved,) = output.glob("model_*.pth")
    iteration = torch.load(saved, weights_only=True)["trainer"]["iteration"]
    opts[opts.index("100000")] = str(iteration + 2)
    done = programs.run(*command, "--resume", *opts, "DATASETS.TEST", "()")
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"Starting training from iteration {iteration + 1}" in done.stdout
