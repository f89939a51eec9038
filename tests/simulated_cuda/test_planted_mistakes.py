"""
Mistakes that the simulated device has to find, waits that it has to count, and correct code that it has to accept.

Run by test_gpu_tests.py with the simulated device, or with: python -m tests.simulated_cuda -m pytest FILE
"""

import copy
import os
import re
import threading

import numpy as np
import pytest
import torch
import torch.distributed as dist

from balanced_lvis.activations import build_activation
from balanced_lvis.evaluation.mask_rle import masks_to_rle
from balanced_lvis.evaluation.pasting import mask_edges
from balanced_lvis.meta import MetaSampler
from balanced_lvis.modeling.mask_head import chosen_logits
from balanced_lvis.modeling.pooling import axis_weights
from balanced_lvis.priors import ClassPrior
from tests.simulated_cuda.state import STATE

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(os.environ.get("SIMCUDA") != "1", reason="is about the simulated device"),
]
MIXED_DEVICES = "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"
PRIOR = ClassPrior(tuple("abcdef"), [1, 5, 20, 60, 150, 400], 500)


def on_gpu(*shape):
    return torch.randn(*shape, device="cuda")


# ---------------------------------------------------------------- mistakes in this project's own code


def test_an_offset_that_is_no_buffer(monkeypatch):
    activation = build_activation("balanced_sigmoid", 6, PRIOR).cuda()
    monkeypatch.setattr(type(activation), "offset", activation.offset.cpu())
    with pytest.raises(RuntimeError, match=MIXED_DEVICES):
        activation.loss(on_gpu(5, 7), torch.randint(0, 7, (5,), device="cuda"))


def test_classes_on_the_cpu():
    with pytest.raises(RuntimeError, match=MIXED_DEVICES):
        build_activation("sigmoid", 6).cuda().loss(on_gpu(5, 7), torch.randint(0, 7, (5,)))


def test_classes_of_masks_on_the_cpu():
    with pytest.raises(RuntimeError, match=MIXED_DEVICES):
        chosen_logits(on_gpu(3, 4, 7, 7), torch.tensor([0, 1, 2]), on_gpu(5, 4, 1, 1), on_gpu(5))


def test_positions_that_are_made_on_the_cpu():
    with pytest.raises(RuntimeError, match=MIXED_DEVICES):
        axis_weights(torch.rand(3, device="cuda"), torch.rand(3, device="cuda") + 3, 7, 20)


def test_numpy_of_a_gpu_tensor():
    boxes = torch.tensor([[0.0, 0.0, 9.0, 9.0], [1.0, 1.0, 5.0, 5.0]], device="cuda")
    with pytest.raises(TypeError, match="can't convert cuda:0 device type tensor to numpy"):
        mask_edges(torch.rand(2, 28, 28, device="cuda"), boxes, 20, 20, 0.5)


def test_a_generator_of_the_cpu():
    with pytest.raises(RuntimeError, match="Expected a 'cuda' device type for generator but found 'cpu'"):
        MetaSampler(5).cuda()(3, torch.Generator())


# ---------------------------------------------------------------- mistakes in the use of torch


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda: on_gpu(3) + torch.ones(3), MIXED_DEVICES),
        (lambda: torch.ones(()).add_(on_gpu(1)[0]), MIXED_DEVICES),
        (lambda: torch.cat([on_gpu(3), torch.ones(3)]), MIXED_DEVICES),
        (lambda: torch.ones(3)[torch.tensor([0, 1], device="cuda")], "indices should be either on cpu"),
        (lambda: on_gpu(3).index_put_((torch.tensor([0, 1]),), torch.ones(2)), MIXED_DEVICES),
        (lambda: setattr(on_gpu(3), "data", torch.ones(3)), "incompatible tensor type"),
        (lambda: on_gpu(3).pin_memory(), "only dense CPU tensors can be pinned"),
        (lambda: torch.randn(3, generator=torch.Generator("cuda")), "Expected a 'cpu' device type for generator"),
        (lambda: torch.zeros(1, device="cuda:3"), "invalid device ordinal"),
        (lambda: torch.zeros(1).to("cuda:3"), "invalid device ordinal"),
        (lambda: torch.cuda.set_device(3), "invalid device ordinal"),
        (lambda: torch.cuda.set_rng_state(on_gpu(3)), "must be a torch.ByteTensor"),
        (lambda: np.asarray(on_gpu(3)), "can't convert cuda:0 device type tensor to numpy"),
    ],
)
def test_what_torch_refuses(mistake, message):
    with pytest.raises((RuntimeError, TypeError), match=message):
        mistake()


class _MakesGPUTensors(torch.utils.data.Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return torch.zeros(1, device="cuda")


def test_cuda_in_a_forked_worker():
    with pytest.raises(RuntimeError, match="Cannot re-initialize CUDA in forked subprocess"):
        list(torch.utils.data.DataLoader(_MakesGPUTensors(), num_workers=1, multiprocessing_context="fork"))


@pytest.fixture
def nccl(tmp_path):
    dist.init_process_group("nccl", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda: dist.all_reduce(torch.ones(3)), "No backend type associated with device type cpu"),
        (lambda: dist.all_gather([torch.ones(3)], torch.ones(3)), "No backend type associated with device type cpu"),
        (lambda: dist.broadcast(torch.ones(3), 0), "No backend type associated with device type cpu"),
        (lambda: dist.all_reduce(on_gpu(3).short()), "not supported for NCCL process group: Short"),
        (lambda: dist.barrier(device_ids=[1]), "invalid device ordinal"),
    ],
)
def test_what_nccl_refuses(nccl, mistake, message):
    with pytest.raises(RuntimeError, match=message):
        mistake()


# ---------------------------------------------------------------- waits


def waits_of(function) -> dict[str, int]:
    STATE.reset()
    function()
    return {wait.kind: times for wait, times in STATE.waits.items()}


def test_each_kind_of_wait_is_counted():
    x, mask, boxes = on_gpu(4), torch.tensor([True, False, True, True], device="cuda"), on_gpu(4, 4)
    for kind, function in {
        "item": lambda: float(x.sum()),
        "D2H": lambda: x.cpu(),
        "H2D": lambda: torch.ones(3).cuda(),
        "H2D index": lambda: x[torch.tensor([0, 1])],
        "nonzero": lambda: mask.nonzero(),
        "boolean index": lambda: x[mask],
        "masked_select": lambda: x.masked_select(mask),
        "unique": lambda: x.unique(),
        "repeat_interleave": lambda: x.repeat_interleave(mask.long()),
        "nms": lambda: torch.ops.torchvision.nms(boxes, x, 0.5),
        "synchronize": lambda: torch.cuda.Event().synchronize(),
    }.items():
        assert waits_of(function) == {kind: 1}, kind
    assert waits_of(lambda: torch.tensor([1.0, 2.0], device="cuda")) == {"H2D": 1}
    assert waits_of(lambda: bool(x.isfinite().all())) == {"item": 1}


def test_what_needs_no_wait_is_not_counted():
    x, mask = on_gpu(4), torch.tensor([True, False, True, True], device="cuda")
    pinned = torch.ones(4).pin_memory()
    assert pinned.is_pinned() and not torch.ones(4).is_pinned()
    assert torch.empty(4, pin_memory=True).is_pinned()
    STATE.reset()
    x.mul_(2).add_(torch.tensor(3.0)).clamp_(max=1.0)
    x[mask] = 0.0
    x[torch.arange(2, device="cuda")].sum()
    torch.zeros(3, device="cuda").fill_(2)
    x.repeat_interleave(torch.ones(4, dtype=torch.long, device="cuda"), output_size=4)
    pinned.to("cuda", non_blocking=True)
    x.copy_(pinned, non_blocking=True)
    x.to("cpu", non_blocking=True)
    torch.cuda.Event().record()
    assert not STATE.waits


def test_a_copy_from_memory_that_is_not_pinned_waits_all_the_same():
    assert waits_of(lambda: torch.ones(4).to("cuda", non_blocking=True)) == {"H2D": 1}
    assert waits_of(lambda: torch.ones(4).pin_memory().to("cuda")) == {"H2D": 1}


def test_the_place_of_a_wait_is_a_line_of_this_project_where_there_is_one():
    STATE.reset()
    masks_to_rle(torch.rand(2, 28, 28, device="cuda"), torch.tensor([[1.0, 1, 9, 9], [2, 2, 5, 5]]).cuda(), (20, 20))
    float(on_gpu(1))
    places = {wait.kind: wait.place for wait in STATE.waits}
    assert re.fullmatch(r"balanced_lvis/evaluation/\w+\.py:\d+", places["D2H"])
    assert re.fullmatch(r"tests/simulated_cuda/test_planted_mistakes\.py:\d+", places["item"])


def test_torch_reports_waits_in_its_debug_mode():
    x = on_gpu(3)
    torch.cuda.set_sync_debug_mode("error")
    try:
        with pytest.raises(RuntimeError, match="called a synchronizing CUDA operation"):
            x.cpu()
        torch.cuda.set_sync_debug_mode("warn")
        with pytest.warns(UserWarning, match="called a synchronizing CUDA operation"):
            x.nonzero()
    finally:
        torch.cuda.set_sync_debug_mode("default")


# ---------------------------------------------------------------- what is correct, and accepted


def test_tensors_say_that_they_are_on_the_gpu():
    x = torch.ones(2, 3).cuda()
    assert x.is_cuda and x.device == torch.device("cuda:0")
    for made in (x + 1, x[0], x.t(), torch.zeros_like(x), x.new_tensor([1.0]), copy.deepcopy(x), x.half(), x.to(x)):
        assert made.is_cuda
    assert not x.cpu().is_cuda and not torch.ones(1).is_cuda
    assert torch.equal(x.cpu(), torch.ones(2, 3))


def test_backward_passes_run_in_the_thread_of_the_device():
    threads = set()
    x = on_gpu(3).requires_grad_()
    y = x * 2
    y.register_hook(lambda gradient: threads.add(threading.get_ident()))
    y.sum().backward()
    assert threads and threading.get_ident() not in threads
    assert x.grad.is_cuda
    torch.testing.assert_close(x.grad.cpu(), torch.full((3,), 2.0))


def test_autocast_is_that_of_the_gpu():
    layer = torch.nn.Linear(4, 2).cuda()
    with torch.autocast("cuda", dtype=torch.float16):
        assert layer(on_gpu(3, 4)).dtype == torch.float16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(on_gpu(3, 4)).dtype == torch.float32


def test_every_device_has_a_stream_of_random_numbers_of_its_own():
    torch.manual_seed(3)
    expected_cpu, expected = torch.rand(3), torch.rand(3, device="cuda").cpu()
    torch.manual_seed(3)
    assert torch.equal(torch.rand(3, device="cuda").cpu(), expected)
    assert torch.equal(torch.rand(3), expected_cpu)
    state = torch.cuda.get_rng_state()
    following = torch.rand(3, device="cuda").cpu()
    torch.cuda.set_rng_state(state)
    assert torch.equal(torch.rand(3, device="cuda").cpu(), following)


def test_saved_tensors_are_read_on_the_cpu(tmp_path):
    layer = torch.nn.Linear(4, 2).cuda()
    torch.save(layer.state_dict(), tmp_path / "layer.pth")
    loaded = torch.load(tmp_path / "layer.pth", map_location="cpu", weights_only=True)
    assert all(not tensor.is_cuda and torch.equal(tensor, layer.state_dict()[n].cpu()) for n, tensor in loaded.items())


def test_nccl_exchanges_tensors_of_the_gpu_and_objects(nccl):
    assert dist.get_backend() == "nccl"
    x = torch.ones(3, device="cuda")
    dist.all_reduce(x)
    found = [None]
    dist.all_gather_object(found, {"a": 1})
    assert x.is_cuda and found == [{"a": 1}]
    group = dist.new_group(backend="gloo")
    assert dist.get_backend(group) == "gloo"
    dist.all_reduce(torch.ones(2), group=group)
    dist.barrier(device_ids=[0])
