"""The tensor that says that it is on a GPU, and helpers for nested arguments that hold such tensors."""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from tests.simulated_cuda.state import STATE


def device_of(index: int) -> torch.device:
    return torch.device("cuda", index)


def device_index(device) -> int | None:
    """
    Args:
        device: as torch takes it; None for none.

    Returns:
        its number, of the current device where it has none; None if it isn't a CUDA device.

    Raises:
        RuntimeError: if there is no such device.
    """
    device = None if device is None else torch.device(device)
    if device is None or device.type != "cuda":
        return None
    index = torch.cuda.current_device() if device.index is None else device.index
    if index >= STATE.devices:
        raise RuntimeError(f"CUDA error: invalid device ordinal (simulated): {device}")
    return index


class SimulatedTensor(torch.Tensor):
    """
    A tensor "on the GPU".

    Args:
        inner: the CPU tensor that it shares its memory with.
        index: number of the device.
    """

    @staticmethod
    def __new__(cls, inner: torch.Tensor, index: int = 0):
        if STATE.in_forked_process:
            raise RuntimeError("Cannot re-initialize CUDA in forked subprocess. (simulated)")
        self = torch.Tensor._make_subclass(
            cls, inner, False, dispatch_device=True, device_for_backend_keys=device_of(index)
        )
        self.inner, self.index_ = inner, index
        return self

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        from tests.simulated_cuda.dispatch import dispatch  # which imports this module

        return dispatch(func, args, kwargs or {})

    @property
    def data(self):
        return self.detach()

    @data.setter
    def data(self, new):
        if not isinstance(new, SimulatedTensor):
            raise RuntimeError("incompatible tensor type (simulated): .data of a CUDA tensor is set to a CPU tensor")
        torch.Tensor.data.__set__(self, new)
        self.inner, self.index_ = new.inner, new.index_

    def follow_inner(self) -> None:
        """Take the shape of ``inner``, which an operator has changed in place."""
        if self.shape != self.inner.shape or self.stride() != self.inner.stride():
            torch.Tensor.data.__set__(self, SimulatedTensor(self.inner, self.index_))

    def numpy(self, *args, **kwargs):
        raise TypeError(
            f"can't convert cuda:{self.index_} device type tensor to numpy. Use Tensor.cpu() to copy the tensor to "
            "host memory first. (simulated)"
        )

    def __array__(self, *args, **kwargs):
        return self.numpy()

    def tolist(self):
        return self.detach().cpu().tolist()

    def pin_memory(self, *args, **kwargs):
        raise RuntimeError(f"cannot pin 'torch.cuda.{self.dtype}' only dense CPU tensors can be pinned (simulated)")

    def __reduce_ex__(self, protocol):
        """As a CPU tensor: files are read with ``map_location="cpu"``."""
        if self.grad_fn is not None:
            raise RuntimeError("Only leaf tensors can be pickled (simulated)")
        with _disable_current_modes():
            return self.inner.detach().__reduce_ex__(protocol)

    def __deepcopy__(self, memo):
        if id(self) not in memo:
            with torch.no_grad():
                memo[id(self)] = self.detach().clone().requires_grad_(self.requires_grad)
            if getattr(self, "_is_param", False):
                memo[id(self)]._is_param = True
        return memo[id(self)]

    def __repr__(self, **kwargs):
        return f"SimulatedTensor(cuda:{self.index_}, {self.dtype}, {self.inner.detach()!r})"


class SimulatedMode(TorchDispatchMode):
    """Sees the operators without a simulated tensor among their arguments, in the thread that has entered it."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        from tests.simulated_cuda.dispatch import dispatch

        return dispatch(func, args, kwargs or {})

    @classmethod
    def ignore_compile_internals(cls):
        return True


def tensors_in(*values) -> list[torch.Tensor]:
    """All tensors in nested lists and tuples, in their order."""
    found = []
    for value in values:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += tensors_in(*value)
    return found


def map_tensors(change, value):
    """``value``, nested lists and tuples, with ``change`` applied to all tensors in it."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, (list, tuple)):
        return type(value)(map_tensors(change, item) for item in value)
    return value


def unwrapped(value):
    """With CPU tensors in place of simulated ones."""
    return map_tensors(lambda tensor: tensor.inner if isinstance(tensor, SimulatedTensor) else tensor, value)


def wrapped(value, index: int):
    """With tensors of device ``index`` in place of CPU tensors."""
    return map_tensors(
        lambda tensor: tensor if isinstance(tensor, SimulatedTensor) else SimulatedTensor(tensor, index), value
    )
