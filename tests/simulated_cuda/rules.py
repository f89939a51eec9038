"""Which tensors a GPU's operators accept, and which operators make the host wait."""

from __future__ import annotations

import torch

from tests.simulated_cuda.state import STATE
from tests.simulated_cuda.tensor import SimulatedTensor, device_of, tensors_in

COPIES = {"aten::copy_", "aten::_to_copy", "aten::copy", "aten::_copy_from", "aten::_foreach_copy_"}
INDEXING = {
    "aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_", "aten::_unsafe_index",
    "aten::_unsafe_index_put",
}  # fmt: skip
# Operators, beside pointwise ones, that accept a CPU tensor without dimensions.
SCALARS_ACCEPTED = {
    "aten::where", "aten::fill_", "aten::masked_fill", "aten::masked_fill_", "aten::lerp", "aten::index_fill",
    "aten::index_fill_", "aten::clamp", "aten::clamp_", "aten::addcmul", "aten::addcdiv", "aten::result_type",
    "aten::full_like",
}  # fmt: skip
# Operators whose result, or its shape, the host needs before it can continue.
WAITS = {
    "aten::_local_scalar_dense": "item",
    "aten::nonzero": "nonzero",
    "aten::masked_select": "masked_select",
    "aten::_unique": "unique",
    "aten::_unique2": "unique",
    "aten::unique_dim": "unique",
    "aten::unique_consecutive": "unique",
    "aten::unique_dim_consecutive": "unique",
    "aten::equal": "equal",
    "aten::allclose": "equal",
    "aten::bincount": "bincount",
    "aten::multinomial": "multinomial",  # checks the probabilities
    "aten::repeat_interleave": "repeat_interleave",
    "torchvision::nms": "nms",
}


def check_devices(func, name: str, args, kwargs, tensors: list) -> int | None:
    """
    Args:
        func: the operator.
        name: of ``func``, such as "aten::add".
        args, kwargs: its arguments.
        tensors: all in ``args`` and ``kwargs``.

    Returns:
        the number of the device that it runs on; None for the CPU.

    Raises:
        RuntimeError: if a GPU would refuse the tensors, with torch's words.
    """
    simulated = [tensor for tensor in tensors if isinstance(tensor, SimulatedTensor)]
    if not simulated:
        return None
    index = simulated[0].index_
    if name in COPIES:
        return index
    devices = sorted({tensor.index_ for tensor in simulated})
    if len(devices) > 1:
        raise _two_devices(func, *(device_of(number) for number in devices[:2]))
    others = [tensor for tensor in tensors if not isinstance(tensor, SimulatedTensor)]
    if not others:
        return index
    if name in INDEXING:
        _check_indexing(func, args, index)
        return index
    accepts_scalars = torch.Tag.pointwise in func.tags or name in SCALARS_ACCEPTED or name.startswith("aten::_foreach_")
    is_one_scalar = len(others) == 1 and not others[0].dim()
    if not (accepts_scalars and is_one_scalar) or _is_written_to(others[0], func, args, kwargs):
        raise _two_devices(func, device_of(index), "cpu")
    return index


def _two_devices(func, *devices) -> RuntimeError:
    one, other = devices
    return RuntimeError(
        f"Expected all tensors to be on the same device, but found at least two devices, {one} and {other}! "
        f"(simulated: {func})"
    )


def _check_indexing(func, args, index: int) -> None:
    """CPU tensors may index a GPU's tensor, to which they are copied; not the other way round."""
    if not isinstance(args[0], SimulatedTensor):
        raise RuntimeError(
            "indices should be either on cpu or on the same device as the indexed tensor (cpu) (simulated)"
        )
    if len(args) > 2 and not isinstance(args[2], SimulatedTensor) and args[2].dim():
        raise _two_devices(func, device_of(index), "cpu")
    for tensor in tensors_in(list(args[1])):
        if not isinstance(tensor, SimulatedTensor):
            STATE.wait("H2D index", func._schema.name)


def _is_written_to(tensor, func, args, kwargs) -> bool:
    for position, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[position] if position < len(args) else kwargs.get(argument.name)
            if value is tensor:
                return True
    return False


def count_wait(name: str, args, kwargs) -> None:
    """Count the wait, if any, of an operator on the device that isn't a copy."""
    if name == "aten::repeat_interleave" and kwargs.get("output_size") is not None:
        return
    if name in WAITS:
        STATE.wait(WAITS[name], name)
    elif name in INDEXING and _counts_a_mask(args):
        STATE.wait("boolean index", name)


def _counts_a_mask(args) -> bool:
    """Whether a mask's entries have to be counted. To write one number, masked_fill_ does instead."""
    if not any(tensor.dtype in (torch.bool, torch.uint8) for tensor in tensors_in(list(args[1]))):
        return False
    return not (len(args) > 2 and args[2].numel() == 1 and not isinstance(args[2], SimulatedTensor))


def count_copy(source, target_index: int | None, name: str, non_blocking: bool) -> None:
    """
    Count the wait for a copy between the CPU and the device.

    To the device, only copies from pinned memory can run beside the host; to the CPU, torch makes pinned memory for
    those that are not to block.
    """
    from_device = isinstance(source, SimulatedTensor)
    to_device = target_index is not None
    if from_device == to_device:
        return
    if non_blocking and (from_device or is_pinned(source)):
        return
    STATE.wait("H2D" if to_device else "D2H", name)


def pin(tensor: torch.Tensor) -> torch.Tensor:
    """Have :func:`is_pinned` be true of a CPU tensor and of all that share its memory."""
    tensor.untyped_storage().simulated_pin = True
    return tensor


def is_pinned(tensor: torch.Tensor) -> bool:
    return hasattr(tensor.untyped_storage(), "simulated_pin")
