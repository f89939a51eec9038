"""
Process groups of "nccl", which gloo carries out on the CPU tensors, with NCCL's rules: no CPU tensors, no int16, and
barriers and objects on the current device.
"""

from __future__ import annotations

import torch

from tests.simulated_cuda.state import STATE
from tests.simulated_cuda.tensor import SimulatedTensor, device_index, device_of, tensors_in, unwrapped

_nccl_groups: set[str] = set()  # names of process groups
# Those that write to their first argument.
_IN_PLACE = ("c10d::allreduce_", "c10d::broadcast_", "c10d::allgather_", "c10d::_allgather_base_")


def run_collective(func, name: str, args, kwargs):
    """
    Raises:
        RuntimeError: for tensors that the group's backend doesn't take.
    """
    tensors = tensors_in(args, list(kwargs.values()))
    simulated = [isinstance(tensor, SimulatedTensor) for tensor in tensors]
    is_nccl = _is_nccl(next((arg for arg in args if type(arg).__name__ in ("ProcessGroup", "ScriptObject")), None))
    if name == "c10d::barrier":
        if is_nccl:
            STATE.wait("barrier", name)
    elif is_nccl and not all(simulated):
        raise RuntimeError("No backend type associated with device type cpu (simulated NCCL)")
    elif not is_nccl and any(simulated) and not all(simulated):
        raise RuntimeError("gloo: tensors of two devices (simulated)")
    if is_nccl and any(tensor.dtype == torch.int16 for tensor in tensors):
        raise RuntimeError("Input tensor data type is not supported for NCCL process group: Short (simulated)")
    found = func(*unwrapped(args), **{key: unwrapped(value) for key, value in kwargs.items()})
    return (args[0], *found[1:]) if name in _IN_PLACE and isinstance(found, tuple) else found


def _is_nccl(group) -> bool:
    if group is None:
        return False
    if not hasattr(group, "group_name"):
        group = torch._C._distributed_c10d.ProcessGroup.unbox(group)
    return group.group_name in _nccl_groups


def patch_distributed() -> None:
    """Have ``torch.distributed`` make gloo groups where it is asked for "nccl", and say "nccl" of them."""
    import torch.distributed as dist
    from torch.distributed import distributed_c10d as c10d

    if not dist.is_available():
        return
    original_init, original_new, original_backend = c10d.init_process_group, c10d.new_group, c10d.get_backend
    original_barrier = c10d.barrier

    def init_process_group(backend=None, *args, **kwargs):
        device_index(kwargs.pop("device_id", None))  # which has to exist
        is_nccl = backend in ("nccl", None)
        original_init("gloo" if is_nccl else backend, *args, **kwargs)
        if is_nccl:
            _nccl_groups.add(c10d._get_default_group().group_name)

    def new_group(ranks=None, timeout=None, backend=None, *args, **kwargs):
        is_nccl = backend == "nccl" or (backend is None and _is_nccl(c10d._get_default_group()))
        group = original_new(ranks, timeout, "gloo" if is_nccl else backend, *args, **kwargs)
        if is_nccl and hasattr(group, "group_name"):
            _nccl_groups.add(group.group_name)
        return group

    def get_backend(group=None):
        group = group or c10d._get_default_group()
        return "nccl" if getattr(group, "group_name", None) in _nccl_groups else original_backend(group)

    def barrier(group=None, async_op=False, device_ids=None):
        for index in device_ids or ():
            device_index(device_of(index))
        if device_ids is not None and get_backend(group) != "nccl":
            raise ValueError("Function argument device_ids not supported for the selected backend gloo (simulated)")
        return original_barrier(group, async_op)

    def object_device(group=None):
        on_gpu = get_backend(group) == "nccl"
        return device_of(torch.cuda.current_device()) if on_gpu else torch.device("cpu")

    for module in (dist, c10d):
        module.init_process_group, module.new_group = init_process_group, new_group
        module.get_backend, module.barrier = get_backend, barrier
    c10d._get_pg_default_device = object_device
    c10d._get_object_coll_device = lambda group=None: str(object_device(group))
