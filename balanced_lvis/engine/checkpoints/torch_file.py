"""
Files of ``torch.save``, looked through before torch reads them.

``torch.load(weights_only=True)`` runs no code, but allocates what a file asks for: ``bytearray(3_000_000_000)``, a
storage of any size, a tensor beyond its storage. So the pickle is read first with placeholders for tensors.
"""

from __future__ import annotations

import io
import math
import mmap
import os
import zipfile
from collections import OrderedDict

import torch

from ...utils.errors import InputError
from ...utils.io import open_regular
from ...utils.memory_budget import Budget
from .limited_pickle import LimitedUnpickler, RefusedError, size_of

OLD_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # torch.save of before 1.6: a magic number first
_PARTS = 5  # pickles in those: magic number, protocol, system, content, keys of the storages
_PICKLE = "data.pkl"


def load_torch_file(path: str | os.PathLike, weights_only: bool = True, mapped: bool = False):
    """
    As ``torch.load`` onto the CPU.

    Args:
        path: of a file that ``torch.save`` wrote, of any version.
        weights_only: check the file and refuse what is more than tensors and plain values; False runs what it asks for.
        mapped: leave tensors in the file where its format allows it.

    Raises:
        RefusedError: if it names or calls what weights don't need.
        OverBudgetError: if it asks for more memory than a file of its size can need.
        InputError: for another zip archive, and what is not a regular file.
        Exception: of any kind for a broken file.
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
    # As torch finds it: another reader of zip archives might find another one.
    record = torch._C.PyTorchFileReader(path).get_record(_PICKLE)
    _TorchUnpickler(io.BytesIO(record), budget, sizes).load()


def _sizes_of_storages(path: str) -> dict[str, int]:
    """
    By key. Torch stores its files without compression, so nothing in one can be larger than the file: no zip bombs.
    """
    with zipfile.ZipFile(path) as archive:
        members = {member.filename: member.file_size for member in archive.infolist()}
        stated = sum(member.file_size for member in archive.infolist())
        if len(members) < len(archive.infolist()):
            raise InputError(f"{path!r} is not a readable checkpoint: it has two members of one name.")
    pickles = [name for name in members if name.endswith(_PICKLE)]
    if not pickles:
        raise InputError(f"{path!r} is a zip archive, but not one that torch.save wrote; unpack the checkpoint first.")
    there = os.path.getsize(path)
    if stated > there:
        raise InputError(
            f"{path!r} is not a readable checkpoint: it states {stated} bytes of content, but has {there} bytes."
        )
    folder = f"{pickles[0][: -len(_PICKLE)]}data/"
    return {name[len(folder) :]: size for name, size in members.items() if name.startswith(folder)}


class _Name:
    """Something of torch's that is only named: a type of storages or tensors, a layout."""

    def __init__(self, name: str):
        self.name = name


class _Storage:
    def __init__(self, dtype: torch.dtype, size: int):
        self.dtype, self.size = dtype, size  # in bytes


class _Tensor:
    """In a tensor's place."""


def _rebuilt(storage, offset, size, stride, *others) -> _Tensor:
    """A tensor that lies in its storage: torch makes the storage longer for one that doesn't."""
    dtype = next((value for value in others if isinstance(value, torch.dtype)), storage.dtype)
    if type(offset) is not int or not all(type(n) is int and n >= 0 for n in (offset, *size, *stride)):
        raise RefusedError("a tensor whose shape is no whole numbers")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride))
    if len(size) != len(stride) or (math.prod(size) and (last + 1) * _item_size(dtype) > storage.size):
        raise RefusedError(f"a tensor with a shape of {tuple(size[:8])}, for which the file has no values")
    return _Tensor()


def _item_size(dtype: torch.dtype) -> int:
    return torch._utils._element_size(dtype)


def _copied(*arguments):
    return arguments[0] if arguments else None


# What a pickle may call. Copies are counted where they are made.
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
        file, budget: as of :class:`.limited_pickle.LimitedUnpickler`.
        sizes: bytes of the file's storages by key; None where only their sum is known.
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
        # The one of these whose argument may be a size.
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
            raise RefusedError("a persistent object that is no storage")
        if type(numel) is not int or numel < 0:
            raise RefusedError("a storage whose size is no whole number")
        dtype = _dtype_of(storage_type)
        size = numel * _item_size(dtype)
        if key not in self._storages:
            if self._sizes is not None and size > self._sizes.get(str(key), -1):
                raise RefusedError(f"a storage of {size:,} bytes, which the file hasn't")
            self.budget.take(size)
            self._storages[key] = size
        return _Storage(dtype, min(size, self._storages[key]))


def _dtype_of(storage_type: _Name) -> torch.dtype:
    name = storage_type.name.rpartition(".")[2]
    return torch.uint8 if name == "UntypedStorage" else torch.storage._storage_type_to_dtype_map()[name]
