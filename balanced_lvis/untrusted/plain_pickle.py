"""Reading of pickles with NumPy arrays and plain containers, without calling functions that the file names."""

from __future__ import annotations

import mmap
from collections import OrderedDict
from typing import IO, Any, Literal

import numpy as np

from .limited_pickle import LimitedUnpickler, RefusedError, size_of
from .memory_budget import Budget

_KINDS = "biufc"  # NumPy's letters for truth values, integers, floats and complex numbers


class _DType:
    """Replaces ``numpy.dtype``, whose ``__setstate__`` does not validate its argument."""

    def __init__(self, name: str):
        if not isinstance(name, str):  # its text could be of any length
            raise RefusedError("an array of a type without a name")
        self.order: Any = "="
        self.base = np.dtype(name)

    def set_state(self, state) -> None:
        order = state[1]
        self.order = order if isinstance(order, str) and order in ("<", ">", "|") else "="

    def resolve(self) -> np.dtype:
        if self.base.kind not in _KINDS:
            raise RefusedError(f"an array of {self.base} objects")
        return self.base.newbyteorder(self.order)


class _Array:
    """Replaces ``numpy.ndarray``; built only from the right number of bytes."""

    value: np.ndarray | None = None

    def set_state(self, state) -> None:
        _, shape, dtype, is_fortran, content = state
        self.value = _from_bytes(content, dtype, shape, "F" if is_fortran else "C")


def _from_bytes(content, dtype: _DType, shape: tuple, order: Literal["C", "F"]) -> np.ndarray:
    if isinstance(content, str):  # Python 2's bytes
        content = content.encode("latin1")
    kind = dtype.resolve()
    array = np.frombuffer(content, kind) if len(content) else np.empty(0, kind)
    return array.astype(kind.newbyteorder("=")).reshape(shape, order=order)  # a copy, which can be written to


def _scalar(dtype: _DType, content):
    return _from_bytes(content, dtype, (1,), "C")[0]


def _encode(text: str, encoding: str = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise RefusedError("bytes in another encoding than latin1")
    return text.encode("latin1")


class _Name:
    """Placeholder for a name that is only an argument of other calls."""


_NDARRAY, _DTYPE = _Name(), _DType

# Names that a pickle may use, and their replacements. No function of NumPy is called.
_ALLOWED = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): lambda name, *copy_and_align: _DType(name),
    ("collections", "OrderedDict"): lambda: OrderedDict(),
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): lambda: b"",  # how Python 3 writes empty bytes for Python 2
}
for _core in ("numpy.core", "numpy._core"):
    _ALLOWED[f"{_core}.multiarray", "_reconstruct"] = lambda kind, shape, typecode: _Array()
    _ALLOWED[f"{_core}.multiarray", "scalar"] = _scalar
    _ALLOWED[f"{_core}.numeric", "_frombuffer"] = _from_bytes
_CALLABLE = [value for value in _ALLOWED.values() if not isinstance(value, _Name)]


class _PlainUnpickler(LimitedUnpickler):
    def find_class(self, module, name):
        return _ALLOWED[module, name] if (module, name) in _ALLOWED else super().find_class(module, name)

    def call(self, function, arguments):
        if not any(function is allowed for allowed in _CALLABLE):
            return super().call(function, arguments)
        # At most two copies of the longest argument: its bytes, and the array.
        self.budget.take(2 * sum(map(size_of, arguments)))
        return function(*arguments)

    def build(self, instance, state) -> None:
        if type(instance) not in (_Array, _DType):
            super().build(instance, state)
        self.budget.take(2 * sum(map(size_of, state)))
        instance.set_state(state)


def load_plain_pickle(file: IO[bytes] | mmap.mmap, size: int):
    """
    Read a pickle of dicts, lists, tuples, strings, numbers and numeric NumPy arrays, written by Python 2 or 3.

    Args:
        file: file open for reading, at the first byte of the pickle.
        size: size of the file in bytes, which limits the memory that is used.

    Returns:
        the unpickled object. Arrays in tuples and in nested lists are left as placeholders, as they are not used.

    Raises:
        RefusedError: if the file names anything else, before any of it runs.
        OverBudgetError: if it needs more memory than a file of its size should.
        Exception: of any type, if the file is broken.
    """
    return _resolve(_PlainUnpickler(file, Budget(size)).load())


def _resolve(content, depth: int = 3, done: dict | None = None):
    """
    Replace placeholders by arrays in nested dicts, to a limited depth, as a pickle can contain itself.

    Args:
        done: resolved dicts by identity and depth, as a small pickle can refer to one dict a million times.
    """
    if isinstance(content, _Array):
        if content.value is None:
            raise RefusedError("an array without content")
        return content.value
    if not isinstance(content, dict) or not depth:
        return content
    done = {} if done is None else done
    key = id(content), depth
    if key not in done:
        done[key] = {name: _resolve(value, depth - 1, done) for name, value in content.items()}
    return done[key]
