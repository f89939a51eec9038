"""The job that a process finds by its arguments and environment."""

from argparse import Namespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balanced_lvis.config import default_config
from balanced_lvis.engine.processes.job import Job, expand_hosts, expand_tasks, find_job
from balanced_lvis.engine.schedule import log_scaling, scale_linearly
from balanced_lvis.utils.errors import InputError

TORCHRUN = {
    "RANK": "9", "WORLD_SIZE": "16", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "8", "MASTER_ADDR": "first",
    "MASTER_PORT": "29500", "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "2",
}  # fmt: skip
SLURM = {
    "SLURM_PROCID": "9", "SLURM_STEP_NUM_TASKS": "16", "SLURM_STEP_TASKS_PER_NODE": "8(x2)",
    "SLURM_STEP_NODELIST": "gpu[07-08]", "SLURM_JOB_ID": "4711", "SLURM_STEP_ID": "0",
}  # fmt: skip


def args(num_gpus=1, num_machines=1, machine_rank=0, dist_url="auto"):
    return Namespace(num_gpus=num_gpus, num_machines=num_machines, machine_rank=machine_rank, dist_url=dist_url)


def test_one_process_is_the_default():
    assert find_job(args(), {}) == Job()


def test_arguments_start_processes_that_meet_where_they_say():
    job = find_job(args(8, 4, 2, "tcp://first:1234"), {})
    assert (job.world_size, job.local_size, job.rank, job.children) == (32, 8, 16, 8)
    assert (job.address, job.port) == ("first", 1234)
    assert not job.started_by_others


def test_torchrun_has_started_this_process():
    job = find_job(args(), TORCHRUN)
    assert (job.world_size, job.local_size, job.rank, job.local_rank, job.children) == (16, 8, 9, 1, 0)
    assert (job.address, job.port, job.hosts_store, job.attempt) == ("first", 29500, False, 2)
    assert job.started_by_others


def test_slurm_has_started_this_process():
    job = find_job(args(), SLURM)
    assert (job.world_size, job.local_size, job.rank, job.local_rank, job.children) == (16, 8, 9, 1, 0)
    assert job.address == "gpu07"
    assert job.port == find_job(args(), {**SLURM, "SLURM_PROCID": "0"}).port
    assert job.port != find_job(args(), {**SLURM, "SLURM_STEP_ID": "1"}).port
    assert job.started_by_others


def test_one_slurm_task_per_machine_starts_its_gpus_processes():
    one_each = {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "1(x2)"}
    job = find_job(args(8), {**SLURM, **one_each})
    assert (job.world_size, job.local_size, job.rank, job.children) == (16, 8, 8, 8)
    assert not job.started_by_others


def test_torchrun_within_a_slurm_task_counts():
    assert find_job(args(), {**SLURM, **TORCHRUN}).launcher == "torchrun"


def test_a_batch_script_alone_is_no_slurm_task():
    assert find_job(args(2), {"SLURM_PROCID": "0", "SLURM_NTASKS": "16"}).launcher == "arguments"


@pytest.mark.parametrize(
    ("given_args", "environ", "message"),
    [
        (args(0), {}, "--num-gpus is 0"),
        (args(4), TORCHRUN, "torchrun has started 8"),
        (args(4), SLURM, "SLURM has started 8"),
        (args(), {**SLURM, "SLURM_STEP_TASKS_PER_NODE": "8,4"}, "same number"),
        (args(2, 2), {}, "needs --dist-url"),
        (args(2, 2, 2, "tcp://a:1"), {}, "--machine-rank is 2"),
        (args(2, dist_url="file:///tmp/x"), {}, "tcp://HOST:PORT"),
    ],
)
def test_contradictions_are_explained(given_args, environ, message):
    with pytest.raises(InputError, match=message):
        find_job(given_args, environ)


@pytest.mark.parametrize(
    ("names", "hosts"),
    [
        ("a", "a"),
        ("a,b-1.lan", "a b-1.lan"),
        ("gpu[07-10,2],cpu", "gpu07 gpu08 gpu09 gpu10 gpu2 cpu"),
        ("r[1-2]n[08-09]-ib", "r1n08-ib r1n09-ib r2n08-ib r2n09-ib"),
    ],
)
def test_node_lists_are_expanded(names, hosts):
    assert list(expand_hosts(names)) == hosts.split()


@given(st.text("ab[]0,-1 ", max_size=12))
def test_any_text_is_a_node_list_or_refused(text):
    try:
        assert all(set("[],").isdisjoint(host) for host in expand_hosts(text))
    except InputError as error:
        assert "MASTER_ADDR" in str(error)


@given(st.lists(st.tuples(st.integers(1, 99), st.integers(1, 9)), min_size=1, max_size=4))
def test_tasks_per_node_are_expanded(runs):
    text = ",".join(f"{count}(x{times})" if times > 1 else str(count) for count, times in runs)
    assert list(expand_tasks(text)) == [count for count, times in runs for _ in range(times)]


def reference_config(size):
    cfg = default_config()
    cfg.SOLVER.REFERENCE_WORLD_SIZE = size
    cfg.merge_from_list(["SOLVER.IMS_PER_BATCH", 16, "SOLVER.BASE_LR", 0.02, "SOLVER.MAX_ITER", 180_000])
    cfg.merge_from_list(["SOLVER.STEPS", (120_000, 160_000), "SOLVER.META.IMS_PER_BATCH", 8])
    return cfg


@pytest.mark.parametrize(("size", "times"), [(16, 2), (4, 0.5), (64, 8)])
def test_linear_scaling_keeps_images_per_process_and_images_seen(size, times):
    cfg = reference_config(8)
    scale_linearly(cfg, size)
    solver = cfg.SOLVER
    assert (16 * times, 8 * times) == (solver.IMS_PER_BATCH, solver.META.IMS_PER_BATCH)
    assert pytest.approx(0.02 * times) == solver.BASE_LR
    assert solver.MAX_ITER * solver.IMS_PER_BATCH == 180_000 * 16
    assert (120_000 / times, 160_000 / times) == solver.STEPS
    again = cfg.clone()
    scale_linearly(again, size)
    assert again == cfg


def test_scaling_is_detectron2s_and_not_done_twice():
    from detectron2.engine import DefaultTrainer

    ours = reference_config(8)
    theirs = DefaultTrainer.auto_scale_workers(ours, 16)
    scale_linearly(ours, 16)
    for key in ("IMS_PER_BATCH", "BASE_LR", "MAX_ITER", "WARMUP_ITERS", "STEPS", "CHECKPOINT_PERIOD"):
        assert ours.SOLVER[key] == theirs.SOLVER[key], key
    assert DefaultTrainer.auto_scale_workers(ours, 16) is ours


def test_without_a_reference_the_batch_is_the_same_for_any_number_of_processes():
    cfg = reference_config(0)
    before = cfg.clone()
    scale_linearly(cfg, 64)
    assert cfg == before


def test_the_rate_that_a_schedule_ends_with_is_scaled_with_the_others():
    cfg = reference_config(8)
    cfg.SOLVER.BASE_LR_END = 0.002
    scale_linearly(cfg, 4)
    assert pytest.approx((0.01, 0.001)) == (cfg.SOLVER.BASE_LR, cfg.SOLVER.BASE_LR_END)


def test_scaling_is_logged(caplog):
    before = reference_config(8)
    after = before.clone()
    scale_linearly(after, 16)
    with caplog.at_level("INFO"):
        log_scaling(before, after)
    assert "from 8 to 16 processes" in caplog.text
    assert "SOLVER.IMS_PER_BATCH: 16 -> 32" in caplog.text
    assert "SOLVER.META.IMS_PER_BATCH: 8 -> 16" in caplog.text


@pytest.mark.parametrize(("size", "message"), [(-1, "must be 0"), (3, "REFERENCE_WORLD_SIZE 3 processes")])
def test_a_reference_that_can_not_be_is_refused(size, message):
    with pytest.raises(InputError, match=message):
        scale_linearly(reference_config(size), 8)
