"""
A stream of random numbers per simulated device.

A device's state is one of the CPU's default generator, which takes its place while an operator of the device runs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from tests.simulated_cuda.tensor import device_index, device_of

_CPUGenerator = torch.Generator
_states: dict[int, torch.Tensor] = {}  # by device
_seeds: dict[int, int] = {}
_devices_of_generators: dict[int, int] = {}  # by address: C++ returns other Python objects than it was given


@contextlib.contextmanager
def generator_of(index: int) -> Iterator[None]:
    """A context in which the CPU's default generator is that of device ``index``."""
    outside = torch.get_rng_state()
    torch.set_rng_state(get_state(index))
    try:
        yield
    finally:
        _states[index] = torch.get_rng_state()
        torch.set_rng_state(outside)


def get_state(index: int) -> torch.Tensor:
    if index not in _states:
        _states[index] = _CPUGenerator("cpu").manual_seed(get_seed(index)).get_state()
    return _states[index]


def set_state(index: int, state: torch.Tensor) -> None:
    _states[index] = state.clone()


def get_seed(index: int) -> int:
    return _seeds.get(index, 0)


def set_seed(index: int, seed: int) -> None:
    _seeds[index] = int(seed)
    _states.pop(index, None)


class SimulatedGenerator(_CPUGenerator):
    """``torch.Generator``, which may be of a simulated device."""

    def __new__(cls, device="cpu"):
        index = device_index(device)
        self = _CPUGenerator.__new__(cls, "cpu" if index is not None else device)
        self.index_ = index
        if index is not None:
            _devices_of_generators[self._cdata] = index
        return self

    def __init__(self, device="cpu"):
        pass

    def __del__(self):
        _devices_of_generators.pop(self._cdata, None)

    @property
    def device(self):
        return torch.device("cpu") if self.index_ is None else device_of(self.index_)


def check_generator(generator, index: int | None) -> None:
    """
    Args:
        generator: that an operator is given; None for the default one.
        index: of the device that the operator runs on; None for the CPU.

    Raises:
        RuntimeError: if one is of the CPU and the other of a GPU, with torch's words.
    """
    if generator is None:
        return
    is_of_gpu = generator._cdata in _devices_of_generators
    if is_of_gpu != (index is not None):
        expected, found = ("cpu", "cuda") if is_of_gpu else ("cuda", "cpu")
        raise RuntimeError(f"Expected a '{expected}' device type for generator but found '{found}' (simulated)")
