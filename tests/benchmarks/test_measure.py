import os

import pytest
import torch

from balanced_lvis.utils.errors import InputError
from benchmarks import measure
from benchmarks.measure import in_fresh_process, peak_mb, row, time_alternating


def test_ratios_are_those_of_neighbouring_rounds():
    made = row("boxes", "1 x 2", [4.0, 9.0, 6.0], [1.0, 3.0, 1.0], (300.0, 20.0), True)
    assert made == {
        "suite": "boxes",
        "size": "1 x 2",
        "stock_seconds": 6.0,
        "ours_seconds": 1.0,
        "ratio": 4.0,
        "ratio_min": 3.0,
        "ratio_max": 6.0,
        "stock_peak_mb": 300.0,
        "ours_peak_mb": 20.0,
        "identical": True,
    }


def test_contenders_take_turns_after_one_call_each_to_warm_up():
    calls = []
    stock, native = time_alternating(lambda: calls.append("stock"), lambda: calls.append("native"), rounds=2)
    assert calls == ["stock", "native"] * 3
    assert len(stock) == len(native) == 2


def report(job):
    """Runs in a separate process."""
    memory = bytearray(job["megabytes"] * 2**20)
    return {"size": len(memory)}


@pytest.fixture(scope="module")
def small():
    return in_fresh_process(f"{__name__}:report", {"megabytes": 1})


def test_a_fresh_process_answers_with_its_own_peak_memory(small):
    large = in_fresh_process(f"{__name__}:report", {"megabytes": 400})
    assert small["size"] == 2**20
    assert large["peak_mb"] > small["peak_mb"] + 300


def test_a_failing_measurement_shows_why():
    with pytest.raises(InputError, match="(?s)failed:.*KeyError: 'megabytes'"):
        in_fresh_process(f"{__name__}:report", {})


def test_a_fresh_process_does_not_answer_with_its_parents_memory(small):
    held = bytearray(b"x") * (600 * 2**20)
    assert in_fresh_process(f"{__name__}:report", {"megabytes": 1})["peak_mb"] < small["peak_mb"] + 100
    assert peak_mb() > len(held) / 2**20


def allocate(job):
    """A measurement that needs ``job["mb"]`` MB."""
    torch.ones(job["mb"] << 18, device=job["device"])
    return {"process": os.getpid()}


def test_peak_memory_on_the_cpu_is_that_of_a_process_of_its_own():
    found = measure.with_own_peak(f"{__name__}:allocate", {"device": "cpu", "mb": 1})
    assert found["process"] != os.getpid()
    assert found["peak_mb"] > 100  # imports


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpus_peak_memory_is_reset_for_each_measurement_in_this_process():
    found = [measure.with_own_peak(f"{__name__}:allocate", {"device": "cuda", "mb": mb}) for mb in (64, 4)]
    assert {one["process"] for one in found} == {os.getpid()}
    if os.environ.get("SIMCUDA") != "1":  # its memory is the CPU's
        before, after = (one["peak_mb"] for one in found)
        assert before - after == pytest.approx(60, abs=1)


def test_convolutions_are_without_tf32_for_a_while():
    before = torch.backends.cudnn.allow_tf32
    with measure.without_tf32():
        assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.allow_tf32 == before
