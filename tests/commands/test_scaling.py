"""The throughput model: its limits, and what it is made from."""

import dataclasses

import pytest
from detectron2.modeling import build_model

from balanced_lvis.experiments.throughput_model import Cluster, all_reduce_seconds, gradient_bytes, predict
from balanced_lvis.utils.errors import InputError
from tests import programs
from tests.common import CONFIGS, ROOT

CLUSTER = Cluster(step_seconds=0.5, gradient_bytes=200_000_000)


def test_one_process_exchanges_nothing_and_is_fully_efficient():
    alone = predict(CLUSTER, 1)
    assert (alone.exchange, alone.exposed, alone.efficiency) == (0, 0, 1)
    assert alone.images_per_second == pytest.approx(2 / 0.5)


def test_a_ring_sends_twice_the_gradients_over_the_slowest_link():
    fast = dataclasses.replace(CLUSTER, latency=0.0)
    assert all_reduce_seconds(fast, 2) == pytest.approx(200e6 / 100e9)
    assert all_reduce_seconds(fast, 8) == pytest.approx(2 * 7 / 8 * 200e6 / 100e9)
    assert all_reduce_seconds(fast, 256) == pytest.approx(2 * 255 / 256 * 200e6 / 10e9)


def test_what_the_backward_pass_hides_costs_nothing_but_its_last_bucket():
    hidden = dataclasses.replace(CLUSTER, variation=0.0)
    found = predict(hidden, 64)
    assert found.exchange < 0.6 * 0.5
    assert found.exposed == pytest.approx(found.exchange * (25 << 20) / 200e6)
    slow = predict(dataclasses.replace(hidden, network_bandwidth=0.5e9), 64)
    assert slow.exposed == pytest.approx(slow.exchange - 0.6 * 0.5)


def test_more_gpus_do_more_less_efficiently():
    found = [predict(CLUSTER, gpus) for gpus in (1, 8, 64, 256)]
    rates, efficiencies = ([getattr(p, name) for p in found] for name in ("images_per_second", "efficiency"))
    assert rates == sorted(rates) and efficiencies == sorted(efficiencies, reverse=True)


def test_gradients_are_those_of_what_trains(tiny_cfg):
    everything = sum(4 * p.numel() for p in build_model(tiny_cfg).parameters())
    assert gradient_bytes(tiny_cfg) == everything
    tiny_cfg.MODEL.META_ARCHITECTURE = "DecoupledRCNN"
    assert 0 < gradient_bytes(tiny_cfg) < everything


@pytest.mark.parametrize(("name", "value"), [("step_seconds", 0.0), ("variation", -0.1)])
def test_impossible_inputs_are_refused(name, value):
    with pytest.raises(InputError, match=f"--{name.replace('_', '-')} is"):
        dataclasses.replace(CLUSTER, **{name: value})


def test_the_command_prints_its_inputs_and_a_row_per_number_of_gpus():
    command = [ROOT / "tools" / "scaling.py", "--step-seconds", "0.5", "--gpus", "8", "64"]
    done = programs.run(*command, "--config-file", CONFIGS / "r50_balanced_sigmoid.yaml")
    assert done.returncode == 0, done.stderr
    assert "step_seconds 0.5" in done.stdout and "gradient_bytes" in done.stdout
    assert [line.split()[1] for line in done.stdout.splitlines()[-2:]] == ["8", "64"]
