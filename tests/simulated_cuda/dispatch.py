"""Runs an operator of the simulated device: checked, counted, and computed on the CPU."""

from __future__ import annotations

import contextlib

import torch

from tests.simulated_cuda import rules
from tests.simulated_cuda.collectives import run_collective
from tests.simulated_cuda.random_numbers import check_generator, generator_of
from tests.simulated_cuda.state import STATE
from tests.simulated_cuda.tensor import (
    SimulatedTensor,
    device_index,
    device_of,
    map_tensors,
    tensors_in,
    unwrapped,
    wrapped,
)

HALF = (torch.half, torch.bfloat16)


def dispatch(func, args, kwargs):
    """
    Called by torch for every operator, of the CPU too.

    Args:
        func: the operator (``OpOverload``).
        args, kwargs: its arguments.

    Returns:
        its result; of simulated tensors where it ran on the device.
    """
    if func is torch.ops.prim.device.default:
        return device_of(args[0].index_)
    name = func._schema.name
    if name.startswith("c10d::"):
        return run_collective(func, name, args, kwargs)
    if name in ("aten::is_pinned", "aten::_pin_memory"):
        return _pinned_memory(name, args[0])
    index = rules.check_devices(func, name, args, kwargs, tensors_in(args, list(kwargs.values())))
    target = device_index(kwargs.get("device"))
    if index is None and target is None:
        return _on_cpu(func, args, kwargs)
    STATE.operators[name] += 1
    if name in ("aten::copy_", "aten::_to_copy"):
        return _copy(func, name, args, kwargs, index, target)
    if kwargs.get("device") is not None:
        index, kwargs = target, {**kwargs, "device": torch.device("cpu")}
    if kwargs.get("pin_memory"):
        kwargs = {**kwargs, "pin_memory": False}
    check_generator(kwargs.get("generator"), index)
    rules.count_wait(name, args, kwargs)
    takes_default_generator = torch.Tag.nondeterministic_seeded in func.tags and kwargs.get("generator") is None
    with generator_of(index) if takes_default_generator and index is not None else contextlib.nullcontext():
        found = _compute(func, unwrapped(args), {key: unwrapped(value) for key, value in kwargs.items()})
    return _results(func, args, kwargs, found, index)


def _on_cpu(func, args, kwargs):
    check_generator(kwargs.get("generator"), None)
    if not kwargs.get("pin_memory"):
        return func(*args, **kwargs)
    return rules.pin(func(*args, **{**kwargs, "pin_memory": False}))


def _pinned_memory(name: str, tensor):
    if name == "aten::is_pinned":
        return not isinstance(tensor, SimulatedTensor) and rules.is_pinned(tensor)
    return rules.pin(tensor.clone())


def _copy(func, name: str, args, kwargs, index: int | None, target: int | None):
    """``copy_`` into a tensor, or ``_to_copy`` to a device or a data type."""
    if name == "aten::copy_":
        to, source = args[:2]
        non_blocking = args[2] if len(args) > 2 else kwargs.get("non_blocking", False)
        rules.count_copy(source, to.index_ if isinstance(to, SimulatedTensor) else None, name, non_blocking)
        _compute(func, (unwrapped(to), unwrapped(source), *args[2:]), kwargs)
        return to
    to = target if kwargs.get("device") is not None else index
    rules.count_copy(args[0], to, name, kwargs.get("non_blocking", False))
    inner = func(unwrapped(args[0]), **{**kwargs, "device": torch.device("cpu"), "pin_memory": False})
    return inner if to is None else SimulatedTensor(inner, to)


def _compute(func, args, kwargs):
    """On CPU tensors; in float32 where only GPUs have a kernel for half precision."""
    try:
        return func(*args, **kwargs)
    except (RuntimeError, NotImplementedError) as error:
        text = str(error)
        if "not implemented for" not in text or not any(name in text for name in ("Half", "BFloat16")):
            raise
    STATE.lacking_on_cpu[str(func)] += 1
    dtype = next(tensor.dtype for tensor in tensors_in(args, list(kwargs.values())) if tensor.dtype in HALF)

    def up(value):
        return map_tensors(lambda tensor: tensor.float() if tensor.dtype in HALF else tensor, value)

    found = func(*up(args), **{key: up(value) for key, value in kwargs.items()})
    return map_tensors(lambda tensor: tensor.to(dtype) if tensor.dtype == torch.float else tensor, found)


def _results(func, args, kwargs, found, index: int | None):
    """``found`` as tensors of the device; an argument that the operator writes to and returns is itself returned."""
    if not isinstance(found, (torch.Tensor, list, tuple)):
        return found
    returns = func._schema.returns
    is_single = not (isinstance(found, tuple) and len(returns) > 1)
    written = _written_arguments(func, args, kwargs)
    results = []
    for declared, value in zip(returns, [found] if is_single else found):
        alias = declared.alias_info
        original = None
        if alias is not None and alias.is_write:
            original = next((written[name] for name in alias.before_set if name in written), None)
        if original is None:
            results.append(value if index is None else wrapped(value, index))
            continue
        if isinstance(original, SimulatedTensor):
            original.follow_inner()
        results.append(original)
    return results[0] if is_single else tuple(results)


def _written_arguments(func, args, kwargs) -> dict:
    """The arguments that an operator writes to, by their names in its schema's annotations of aliases."""
    found = {}
    for position, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[position] if position < len(args) else kwargs.get(argument.name)
            found.update(dict.fromkeys(argument.alias_info.before_set, value))
    return found
