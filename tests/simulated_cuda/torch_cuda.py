"""``torch.cuda`` of the simulated device."""

from __future__ import annotations

import time
import types

import torch

from tests.simulated_cuda import random_numbers
from tests.simulated_cuda.state import STATE
from tests.simulated_cuda.tensor import SimulatedTensor, device_index, device_of

NAME = "Simulated GPU"
CAPABILITY = (8, 0)
MEMORY = 80 << 30
ALLOCATED = 1 << 20  # whatever is asked: memory isn't simulated

_PROPERTIES = types.SimpleNamespace(
    name=NAME, major=8, minor=0, total_memory=MEMORY, multi_processor_count=108, warp_size=32,
    max_threads_per_multi_processor=2048, regs_per_multiprocessor=65536, gcnArchName="",
)  # fmt: skip


def patch_cuda() -> None:
    """Put the functions of this module in the place of torch's."""
    cuda = torch.cuda
    for name, value in {**_devices(), **_streams(), **_random_numbers(), **_memory()}.items():
        setattr(cuda, name, value)
        for module in (cuda.random, cuda.memory, cuda.streams):
            if hasattr(module, name):
                setattr(module, name, value)
    torch._C._cuda_getCurrentRawStream = lambda index: 0
    torch._C._cuda_isCurrentStreamCapturing = lambda: False
    torch.Generator = random_numbers.SimulatedGenerator
    torch.random.manual_seed = torch.manual_seed = _seed_all
    _move_parameters_by_replacing_them()
    _allow_foreach_optimizers()


def _move_parameters_by_replacing_them() -> None:
    """``Module.to`` would otherwise set ``.data``, which leaves a tensor's Python type as it was."""
    is_compatible = torch._has_compatible_shallow_copy_type
    torch._has_compatible_shallow_copy_type = lambda one, other: (
        isinstance(one, SimulatedTensor) == isinstance(other, SimulatedTensor) and is_compatible(one, other)
    )


def _allow_foreach_optimizers() -> None:
    """Which torch uses on GPUs, but only for tensors of known Python types."""
    from torch.optim import optimizer

    if SimulatedTensor not in optimizer._foreach_supported_types:
        optimizer._foreach_supported_types.append(SimulatedTensor)


# ---------------------------------------------------------------- devices


def _devices() -> dict:
    return {
        "is_available": lambda: True,
        "is_initialized": lambda: not STATE.in_forked_process,
        "_is_in_bad_fork": lambda: STATE.in_forked_process,
        "_lazy_init": _refuse_forked_process,
        "init": _refuse_forked_process,
        "device_count": lambda: STATE.devices,
        "current_device": lambda: STATE.guard.simcuda_device(),
        "set_device": _set_device,
        "device": _Device,
        "get_device_name": lambda device=None: NAME,
        "get_device_capability": lambda device=None: CAPABILITY,
        "get_device_properties": lambda device=None: _PROPERTIES,
        "get_arch_list": lambda: ["sm_80"],
        "is_bf16_supported": lambda *args, **kwargs: True,
        "synchronize": lambda device=None: STATE.wait("synchronize", "torch.cuda.synchronize"),
        "set_sync_debug_mode": _set_sync_debug_mode,
        "get_sync_debug_mode": lambda: STATE.sync_debug_mode,
    }


def _refuse_forked_process() -> None:
    if STATE.in_forked_process:
        raise RuntimeError("Cannot re-initialize CUDA in forked subprocess. (simulated)")


def _ordinal(device=None) -> int:
    """Number of a device, as torch.cuda's functions take it; of the current one for None."""
    if device is None:
        return torch.cuda.current_device()
    return device if isinstance(device, int) else device_index(device)


def _set_device(device) -> None:
    index = _ordinal(device)
    if index >= 0:
        device_index(device_of(index))  # which has to exist
        STATE.guard.simcuda_set_device(index)


class _Device:
    """``torch.cuda.device``."""

    def __init__(self, device):
        self.index = -1 if device is None else _ordinal(device)

    def __enter__(self):
        self.before = torch.cuda.current_device()
        _set_device(self.index)

    def __exit__(self, *exception):
        _set_device(self.before)
        return False


def _set_sync_debug_mode(mode) -> None:
    STATE.sync_debug_mode = {"default": 0, "warn": 1, "error": 2}.get(mode, mode)


# ---------------------------------------------------------------- streams and events


def _streams() -> dict:
    return {
        "Stream": _Stream,
        "Event": _Event,
        "current_stream": _Stream,
        "default_stream": _Stream,
        "set_stream": lambda stream: None,
        "stream": lambda stream: _Stream(),
        "is_current_stream_capturing": lambda: False,
    }


class _Stream:
    """All work is done before a call returns, so that there is never anything to wait for; that is still counted."""

    device_index = cuda_stream = stream_id = 0
    device_type = 1

    def __init__(self, device=None, *args, **kwargs):
        self.device = device_of(0)

    def synchronize(self) -> None:
        STATE.wait("synchronize", "torch.cuda.Stream.synchronize")

    def query(self) -> bool:
        return True

    def wait_event(self, event) -> None:
        pass

    def wait_stream(self, stream) -> None:
        pass

    def record_event(self, event=None):
        event = event or _Event()
        event.record(self)
        return event

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        return False


class _Event:
    def __init__(self, *args, **kwargs):
        self.time = 0.0

    def record(self, stream=None) -> None:
        self.time = time.perf_counter()

    def elapsed_time(self, end) -> float:
        """In milliseconds."""
        return 1000 * (end.time - self.time)

    def synchronize(self) -> None:
        STATE.wait("synchronize", "torch.cuda.Event.synchronize")

    def query(self) -> bool:
        return True

    def wait(self, stream=None) -> None:
        pass


# ---------------------------------------------------------------- random numbers


def _random_numbers() -> dict:
    return {
        "manual_seed": lambda seed: random_numbers.set_seed(torch.cuda.current_device(), seed),
        "manual_seed_all": _seed_devices,
        "initial_seed": lambda: random_numbers.get_seed(torch.cuda.current_device()),
        "get_rng_state": lambda device="cuda": random_numbers.get_state(_ordinal(device)).clone(),
        "get_rng_state_all": lambda: [random_numbers.get_state(index).clone() for index in range(STATE.devices)],
        "set_rng_state": _set_rng_state,
        "set_rng_state_all": _set_rng_state_all,
        "default_generators": (),
    }


def _seed_devices(seed) -> None:
    for index in range(STATE.devices):
        random_numbers.set_seed(index, seed)


def _seed_all(seed):
    """``torch.manual_seed``."""
    if not STATE.in_forked_process:
        _seed_devices(seed)
    return torch.default_generator.manual_seed(int(seed))


def _set_rng_state(state, device="cuda") -> None:
    if isinstance(state, SimulatedTensor):
        raise TypeError("RNG state must be a torch.ByteTensor (simulated)")
    random_numbers.set_state(_ordinal(device), state)


def _set_rng_state_all(states) -> None:
    for index, state in enumerate(states):
        _set_rng_state(state, index)


# ---------------------------------------------------------------- memory


def _memory() -> dict:
    patches = {
        "empty_cache": lambda: None,
        "ipc_collect": lambda: None,
        "mem_get_info": lambda device=None: (MEMORY, MEMORY),
    }
    for name in ("memory_allocated", "max_memory_allocated", "memory_reserved", "max_memory_reserved"):
        patches[name] = lambda device=None: ALLOCATED
    for name in ("reset_peak_memory_stats", "reset_max_memory_allocated"):
        patches[name] = lambda device=None: None
    return patches
