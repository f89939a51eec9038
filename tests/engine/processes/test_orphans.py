"""Children of a killed process end soon after it."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from balanced_lvis.config import load_config
from balanced_lvis.data import loader as loader_module
from balanced_lvis.data.config_datasets import prepare_rendered
from balanced_lvis.data.loader import build_test_loader, build_train_loader
from balanced_lvis.data.rendered import dataset as rendering
from balanced_lvis.utils.parent_process import child_environment, end_with_parent
from tests.common import CONFIGS, ROOT, rendered_opts
from tests.engine.forking import context, is_running, wait_for
from tests.engine.processes.test_launch import children, start

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")


class Large(torch.utils.data.Dataset):
    """Records of 2 MB when pickled, more than a pipe buffers: a worker can't end before they are read."""

    def __len__(self):
        return 1000

    def __getitem__(self, index):
        return np.zeros(2 << 20, np.uint8)


class Slow(Large):
    """A record that takes longer than any test."""

    def __getitem__(self, index):
        time.sleep(600)


def as_is(records):
    return records


def load(data, method, connection):
    start_worker = loader_module._start_worker
    loader = DataLoader(
        data, 1, num_workers=2, collate_fn=as_is, worker_init_fn=start_worker, multiprocessing_context=method,
        prefetch_factor=4,
    )  # fmt: skip
    batches = iter(loader)
    if not isinstance(data, Slow):
        next(batches)
        time.sleep(1.0)  # until the queue is full
    connection.send([worker.pid for worker in batches._workers])
    connection.recv()
    os._exit(5)


def render(connection):
    pool = ProcessPoolExecutor(2, multiprocessing.get_context("fork"), rendering._start_worker, (None, None))
    futures = [pool.submit(time.sleep, 600) for _ in range(2)]
    wait_for(lambda: all(future.running() for future in futures))
    connection.send(list(pool._processes))
    connection.recv()


def start_child(method, connection):
    child = multiprocessing.get_context(method).Process(target=sleep_watched)
    child.start()
    connection.send([child.pid])
    connection.recv()


def sleep_watched():
    end_with_parent()
    time.sleep(600)


def started(function, *arguments):
    """A process that runs ``function``, a connection to it, and the processes that it has started."""
    here, there = context.Pipe()
    process = context.Process(target=function, args=(*arguments, there))
    process.start()
    assert here.poll(120)
    return process, here, here.recv()


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (load, (Large(), "fork")),
        (load, (Slow(), "fork")),
        (load, (Large(), "forkserver")),
        (render, ()),
        (start_child, ("spawn",)),  # killed before the child watches its parent
    ],
    ids=["full queue", "in a record", "by a fork server", "rendering", "spawned"],
)
def test_processes_that_a_killed_one_has_started_end_too(function, arguments):
    process, _, pids = started(function, *arguments)
    assert pids and all(map(is_running, pids))
    process.kill()
    process.join()
    wait_for(lambda: not any(map(is_running, pids)))


def test_data_workers_end_with_a_job_that_leaves_at_once():
    """Ends like the watchdog, with status 5."""
    process, connection, pids = started(load, Large(), "fork")
    connection.send("end")
    process.join()
    assert process.exitcode == 5
    wait_for(lambda: not any(map(is_running, pids)))


def test_workers_live_as_long_as_their_parent():
    process, _, pids = started(load, Slow(), "fork")
    time.sleep(2.0)  # several checks of the parent
    assert all(map(is_running, pids))
    process.kill()
    process.join()
    wait_for(lambda: not any(map(is_running, pids)))


def test_ranks_end_with_the_process_that_started_them(tmp_path):
    launcher = start(
        sys.executable, "-m", "tests.engine.processes.launched", tmp_path, "--num-gpus", 2, FAIL="hang 0, hang 1",
        TIMEOUT="0", NOTE=str(tmp_path / "at_work"),
    )  # fmt: skip
    try:
        wait_for(lambda: all((tmp_path / f"at_work_{rank}").is_file() for rank in range(2)))
        ranks = children(launcher.pid)
        launcher.kill()
        launcher.communicate()
        wait_for(lambda: not any(map(is_running, ranks)))
    finally:
        launcher.kill()


def test_a_program_ends_with_the_one_that_has_started_it_also_if_that_has_ended_first():
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from parent_process import end_with_starter\n"
        "end_with_starter(); import os, time; assert 'BALANCED_LVIS_PARENT' not in os.environ\n"
        "print('watches', flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", code, ROOT / "balanced_lvis" / "utils"]
    with subprocess.Popen(command, env=child_environment(), stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout.readline() == "watches\n"
        assert program.poll() is None
        program.kill()
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    with subprocess.Popen(command, env={**child_environment(), "BALANCED_LVIS_PARENT": str(gone.pid)}) as program:
        assert program.wait(120) == 5


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"DATALOADER.SAMPLER_TRAIN": "WeightedTrainingSampler", "DATALOADER.ASPECT_RATIO_GROUPING": True},
        {"DATALOADER.SAMPLER_TRAIN": "WeightedTrainingSampler", "DATALOADER.ASPECT_RATIO_GROUPING": False},
    ],
    ids=["ours", "Detectron2's", "Detectron2's without groups"],
)
def test_every_loader_has_workers_that_watch_their_parent(options, rendered, tmp_path, monkeypatch):
    monkeypatch.setattr(loader_module, "end_with_parent", lambda: watching.append(True))
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    cfg = load_config(CONFIGS / "quick_start" / "balanced_sigmoid.yaml", rendered_opts(rendered, tmp_path))
    cfg.merge_from_list([word for pair in options.items() for word in pair])
    cfg.DATASETS.TRAIN_REPEAT_FACTOR = []  # read by the weighted sampler, and missing in some versions
    prepare_rendered(cfg)
    for loader in (build_train_loader(cfg).batches, build_test_loader(cfg, "rendered_val")):
        while not isinstance(loader, DataLoader):
            loader = loader.dataset if hasattr(loader, "dataset") else loader._dataset
        watching = []
        loader.worker_init_fn(0)
        assert watching
