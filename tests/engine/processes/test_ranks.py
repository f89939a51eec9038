"""Several processes compute the same as one."""

import json
import multiprocessing.connection
import os
import signal
import sys
import time

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils import comm
from torch.nn.parallel import DistributedDataParallel

from balanced_lvis.config import load_config
from balanced_lvis.data.config_datasets import prepare_rendered
from balanced_lvis.engine.step import TrainingStep
from balanced_lvis.engine.trainer import Trainer
from balanced_lvis.utils.errors import InputError
from tests.common import CONFIGS, rendered_opts
from tests.engine.forking import context, is_running, wait_for
from tests.engine.toy import Toy, batches, train
from tests.programs import Program


def on_ranks(size, tmp_path, function, *arguments):
    """Call a function in ``size`` processes of one job, which the first failure ends."""
    where = f"file://{tmp_path / f'rendezvous_{size}'}"
    processes = [context.Process(target=_rank, args=(rank, size, where, function, arguments)) for rank in range(size)]
    end = time.monotonic() + 300
    try:
        for process in processes:
            process.start()
        codes = [None] * size
        while None in codes and not any(codes) and time.monotonic() < end:
            living = [process.sentinel for process, code in zip(processes, codes) if code is None]
            multiprocessing.connection.wait(living, timeout=1)
            codes = [process.exitcode for process in processes]
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
                process.join()
    assert codes == [0] * size


def _rank(rank, size, where, function, arguments):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=where, rank=rank, world_size=size)
    comm.create_local_process_group(size)
    function(*arguments)
    torch.distributed.destroy_process_group()


def fail_or_wait(folder):
    """Rank 1 fails; the others write their process id and would wait for ever."""
    if comm.get_rank() == 1:
        while not (folder / "waiting").exists():
            time.sleep(0.01)
        sys.exit(3)
    (folder / "started").write_text(str(os.getpid()))
    (folder / "started").rename(folder / "waiting")
    signal.pause()


def test_a_rank_that_fails_ends_the_others(tmp_path):
    with pytest.raises(AssertionError, match=r"\[None, 3\]"):
        on_ranks(2, tmp_path, fail_or_wait, tmp_path)
    assert not is_running(int((tmp_path / "waiting").read_text()))


def test_a_program_is_killed_at_the_end_of_its_context(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import signal\nprint('running')\nsignal.pause()\n")
    with pytest.raises(ZeroDivisionError), Program(script) as program:
        wait_for(lambda: "running" in program.shown())
        raise ZeroDivisionError
    assert program.returncode == -signal.SIGKILL


@pytest.fixture(scope="module")
def odd_cfg(tmp_path_factory):
    """A dataset of 7 images, and a model whose scores differ between images."""
    root = tmp_path_factory.mktemp("odd")
    cfg = load_config(CONFIGS / "quick_start" / "balanced_sigmoid.yaml", rendered_opts(root / "data", root / "out"))
    cfg.merge_from_list(["DATASETS.RENDERED.VAL_IMAGES", 7, "DATASETS.RENDERED.TRAIN_IMAGES", 12])
    return cfg


def evaluate(cfg, weights, output):
    cfg = cfg.clone()
    cfg.OUTPUT_DIR = str(output)
    prepare_rendered(cfg)
    model = build_model(cfg)
    model.load_state_dict(torch.load(weights, weights_only=True))
    Trainer.test(cfg, model)


def test_any_number_of_processes_evaluates_to_the_same_numbers(odd_cfg, tmp_path):
    """7 images shared as 4 and 3, as 2, 2, 2 and 1, and as one per process except the eighth."""
    prepare_rendered(odd_cfg)
    torch.manual_seed(1)
    model = build_model(odd_cfg)
    torch.nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=0.5)
    torch.save(model.state_dict(), tmp_path / "weights")
    sizes = (1, 2, 4, 8)
    for size in sizes:
        on_ranks(size, tmp_path, evaluate, odd_cfg, tmp_path / "weights", tmp_path / str(size))
    for name in ("results.json", "inference/lvis_instances_results.json", "inference/per_category_ap.json"):
        found = [json.loads((tmp_path / str(size) / name).read_text()) for size in sizes]
        assert all(content == found[0] for content in found), name
    assert len(found[0]) == 12 and json.loads((tmp_path / "1" / "results.json").read_text())["bbox"]["AP"] > 0


def train_toy(folder):
    """Two updates with images of this rank."""
    model = Toy()
    data = batches(*range(10 * comm.get_rank(), 10 * comm.get_rank() + 2), size=4)
    trainer = TrainingStep(
        DistributedDataParallel(model, broadcast_buffers=False), data, torch.optim.SGD(model.parameters(), 0.1)
    )  # fmt: skip
    train(trainer, 2)
    torch.save(model.state_dict(), folder / f"{comm.get_rank()}.pth")


def test_running_statistics_are_the_mean_over_processes(tmp_path):
    on_ranks(3, tmp_path, train_toy, tmp_path)
    states = [torch.load(tmp_path / f"{rank}.pth", weights_only=True) for rank in range(3)]
    assert all(torch.equal(states[0][name], state[name]) for state in states for name in state)
    means = []
    for rank in range(3):
        norm = Toy().norm
        for batch in batches(*range(10 * rank, 10 * rank + 2), size=4):
            norm(torch.stack([record["x"] for record in batch]))
        means.append((norm.running_mean, norm.running_var))
    for name, values in zip(("norm.running_mean", "norm.running_var"), zip(*means)):
        torch.testing.assert_close(states[0][name], torch.stack(values).mean(0), rtol=1e-5, atol=1e-6)


def test_a_scaled_run_is_not_gone_on_with_by_another_number_of_processes(tiny_cfg):
    tiny_cfg.SOLVER.REFERENCE_WORLD_SIZE = 1
    trainer = Trainer(tiny_cfg)
    trainer.iter = 0
    state = trainer.state_dict()
    trainer.load_state_dict(state)
    state["job"] = {"images": 16, "processes": 8}
    with pytest.raises(InputError, match="have 16 images, those of this run 2, .*with 8 processes"):
        trainer.load_state_dict(state)
    tiny_cfg.SOLVER.REFERENCE_WORLD_SIZE = 0
    other = Trainer(tiny_cfg)
    other.load_state_dict(state)
