"""
Safe loading of files written by ``torch.save``.

``torch.load(weights_only=True)`` runs no code, but allocates any size that a file states. So the pickle is first read
with placeholders for tensors, and every size is checked.
"""

from __future__ import annotations

import io
import math
import mmap
import os
import zipfile
from collections import OrderedDict

import torch

from ..utils.errors import InputError
from ..utils.io import open_regular
from .limited_pickle import LimitedUnpickler, RefusedError, size_of
from .memory_budget import Budget

OLD_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # magic number of torch.save before 1.6
_PARTS = 5  # pickles in such a file: magic number, protocol, system, content, keys of the storages
_PICKLE = "data.pkl"


def load_torch_file(path: str | os.PathLike, weights_only: bool = True, mapped: bool = False):
    """
    Load a file onto the CPU, as ``torch.load`` does.

    Args:
        path: file written by any version of ``torch.save``.
        weights_only: check the file and reject everything but tensors and plain values. False runs code from the file.
        mapped: memory-map the tensors, if the format of the file allows it.

    Raises:
        RefusedError: if the file uses objects or calls that weights don't need.
        OverBudgetError: if it needs more memory than a file of its size should.
        InputError: if it is another zip archive, or not a regular file.
        Exception: of any type, if the file is broken.
    """
    if weights_only:
        _check(os.fspath(path))
    return torch.load(path, map_location="cpu", mmap=True if mapped else None, weights_only=weights_only)


def _check(path: str) -> None:
    with open_regular(path) as file:
        budget = Budget(os.path.getsize(path))
        if file.read(len(OLD_TORCH)) == OLD_TORCH:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                for _ in range(_PARTS):
                    _TorchUnpickler(content, budget, None).load()
            return
    sizes = _sizes_of_storages(path)
    # Read as torch does: another reader of zip archives might find another member.
    record = torch._C.PyTorchFileReader(path).get_record(_PICKLE)
    _TorchUnpickler(io.BytesIO(record), budget, sizes).load()


def _sizes_of_storages(path: str) -> dict[str, int]:
    """
    Sizes by key. torch stores members uncompressed, so that none can be larger than the file.
    """
    with zipfile.ZipFile(path) as archive:
        members = {member.filename: member.file_size for member in archive.infolist()}
        stated = sum(member.file_size for member in archive.infolist())
        if len(members) < len(archive.infolist()):
            raise InputError(f"{path!r} is not a readable checkpoint: it has two members of the same name.")
    pickles = [name for name in members if name.endswith(_PICKLE)]
    if not pickles:
        raise InputError(f"{path!r} is a zip archive that torch.save did not write; unpack the checkpoint first.")
    there = os.path.getsize(path)
    if stated > there:
        raise InputError(
            f"{path!r} is not a readable checkpoint: it states {stated} bytes of content, but has {there} bytes."
        )
    folder = f"{pickles[0][: -len(_PICKLE)]}data/"
    return {name[len(folder) :]: size for name, size in members.items() if name.startswith(folder)}


class _Name:
    """Placeholder for a name in torch: a type of storages or tensors, a layout."""

    def __init__(self, name: str):
        self.name = name


class _Storage:
    def __init__(self, dtype: torch.dtype, size: int):
        self.dtype, self.size = dtype, size  # in bytes


class _Tensor:
    """Placeholder for a tensor."""


def _rebuilt(storage, offset, size, stride, *others) -> _Tensor:
    """Check that a tensor lies within its storage. torch would enlarge the storage otherwise."""
    dtype = next((value for value in others if isinstance(value, torch.dtype)), storage.dtype)
    if type(offset) is not int or not all(type(n) is int and n >= 0 for n in (offset, *size, *stride)):
        raise RefusedError("a tensor whose shape is not whole numbers")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride))
    if len(size) != len(stride) or (math.prod(size) and (last + 1) * _item_size(dtype) > storage.size):
        raise RefusedError(f"a tensor with a shape of {tuple(size[:8])}, for which the file has no values")
    return _Tensor()


def _item_size(dtype: torch.dtype) -> int:
    return torch._utils._element_size(dtype)


def _copied(*arguments):
    return arguments[0] if arguments else None


# Functions that a pickle may call.
_CALLABLE = {
    ("collections", "OrderedDict"): lambda *items: OrderedDict(),
    ("collections", "Counter"): lambda *items: {},
    ("builtins", "set"): lambda *items: set(),
    ("builtins", "complex"): lambda real, imaginary: 0,
    ("_codecs", "encode"): _copied,
    ("torch", "Size"): _copied,
    ("torch", "device"): lambda *name: None,
    ("torch.serialization", "_get_layout"): lambda name: None,
    ("torch._utils", "_rebuild_tensor"): _rebuilt,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuilt,
    ("torch._utils", "_rebuild_tensor_v3"): _rebuilt,
    ("torch._utils", "_rebuild_parameter"): lambda data, *others: data,
    ("torch._utils", "_rebuild_parameter_with_state"): lambda data, *others: data,
    ("torch.nn.parameter", "Parameter"): _copied,
}
_BYTEARRAY = ("builtins", "bytearray")


class _TorchUnpickler(LimitedUnpickler):
    """
    Args:
        file, budget: as for :class:`.limited_pickle.LimitedUnpickler`.
        sizes: sizes of the storages in bytes, by key; None if only their sum is known.
    """

    def __init__(self, file, budget: Budget, sizes: dict[str, int] | None):
        super().__init__(file, budget)
        self._sizes = sizes
        self._storages: dict = {}

    def find_class(self, module, name):
        module = {"__builtin__": "builtins"}.get(module, module)
        if (module, name) in _CALLABLE:
            return _CALLABLE[module, name]
        if (module, name) == _BYTEARRAY:
            return self._bytearray
        if str(module).split(".")[0] != "torch":
            return super().find_class(module, name)
        found = getattr(torch, name, None) if module == "torch" else None
        return found if isinstance(found, torch.dtype) else _Name(f"{module}.{name}"[:80])

    def _bytearray(self, *arguments):
        # Its argument may be a size.
        self.budget.take(sum(value for value in arguments if isinstance(value, int)))
        return b""

    def call(self, function, arguments):
        if isinstance(function, _Name):
            raise RefusedError(f"a call of {function.name}")
        if not callable(function):
            super().call(function, arguments)
        self.budget.take(sum(map(size_of, arguments)))
        return function(*arguments)

    def build(self, instance, state) -> None:
        if not isinstance(instance, OrderedDict):
            super().build(instance, state)

    def persistent_load(self, pid):
        kind, storage_type, key, _, numel, *view = pid
        is_known = kind == "storage" and isinstance(storage_type, _Name) and type(key) in (str, int)
        if not is_known or view not in ([], [None]):
            raise RefusedError("a persistent object that is not a storage")
        if type(numel) is not int or numel < 0:
            raise RefusedError("a storage whose size is not a whole number")
        dtype = _dtype_of(storage_type)
        size = numel * _item_size(dtype)
        if key not in self._storages:
            if self._sizes is not None and size > self._sizes.get(str(key), -1):
                raise RefusedError(f"a storage of {size:,} bytes, more than the file has")
            self.budget.take(size)
            self._storages[key] = size
        return _Storage(dtype, min(size, self._storages[key]))


def _dtype_of(storage_type: _Name) -> torch.dtype:
    name = storage_type.name.rpartition(".")[2]
    return torch.uint8 if name == "UntypedStorage" else torch.storage._storage_type_to_dtype_map()[name]
