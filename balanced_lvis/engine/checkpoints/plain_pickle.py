"""Pickles of NumPy arrays and plain containers, read without calling anything that a file asks for."""

from __future__ import annotations

import pickle
import struct
from collections import OrderedDict
from typing import IO, ClassVar

import numpy as np

_KINDS = "biufc"  # NumPy's letters for truth values, integers, floats and complex numbers


class Refused(pickle.UnpicklingError):
    """A pickle that asks for more than arrays and containers; the message says for what."""


class _DType:
    """In place of ``numpy.dtype``, whose own ``__setstate__`` believes anything."""

    def __init__(self, name: str):
        self.order = "="
        self.base = np.dtype(str(name))

    def set_state(self, state) -> None:
        self.order = {"<": "<", ">": ">", "|": "|"}.get(state[1], "=")

    def resolve(self) -> np.dtype:
        if self.base.kind not in _KINDS:
            raise Refused(f"an array of {self.base} objects")
        return self.base.newbyteorder(self.order)


class _Array:
    """In place of ``numpy.ndarray``: built from bytes of the right number, and nothing else."""

    value: np.ndarray | None = None

    def set_state(self, state) -> None:
        _, shape, dtype, is_fortran, content = state
        self.value = _from_bytes(content, dtype, shape, "F" if is_fortran else "C")


def _from_bytes(content, dtype: _DType, shape: tuple, order: str) -> np.ndarray:
    if isinstance(content, str):  # Python 2's bytes
        content = content.encode("latin1")
    kind = dtype.resolve()
    array = np.frombuffer(content, kind) if len(content) else np.empty(0, kind)
    return array.astype(kind.newbyteorder("=")).reshape(shape, order=order)  # a copy, which can be written to


def _scalar(dtype: _DType, content):
    return _from_bytes(content, dtype, (1,), "C")[0]


def _encode(text: str, encoding: str = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise Refused(f"bytes in {str(encoding)[:40]!r}")
    return text.encode("latin1")


class _Name:
    """A name that only stands for itself in other calls' arguments."""


_NDARRAY, _DTYPE = _Name(), _DType

# What a pickle may name, and what it gets. Nothing of NumPy itself is called.
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


class _PlainUnpickler(pickle._Unpickler):  # Python's own: C's allocates whatever size a file states
    dispatch: ClassVar = {
        code: function
        for code, function in pickle._Unpickler.dispatch.items()
        if bytes([code]) not in (
            pickle.INST, pickle.OBJ, pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.EXT1, pickle.EXT2, pickle.EXT4,
            pickle.PERSID, pickle.BINPERSID, pickle.NEXT_BUFFER,
        )
    }  # fmt: skip

    def find_class(self, module, name):
        # As text: a hostile file can name anything of any length.
        if (module, name) not in _ALLOWED:
            raise Refused(f"the Python object {str(module)[:80]}.{str(name)[:80]}")
        return _ALLOWED[module, name]

    def load_bytearray8(self):
        # Python's own allocates the stated size before it reads.
        (size,) = struct.unpack("<Q", self.read(8))
        content = self.read(size)
        if len(content) < size:
            raise EOFError(f"{size} bytes are stated, {len(content)} left")
        self.append(bytes(content))

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8

    def load_reduce(self):
        arguments = self.stack.pop()
        function = self.stack[-1]
        if not any(function is allowed for allowed in _CALLABLE):
            raise Refused(f"a call of a {type(function).__name__}")
        self.stack[-1] = function(*arguments)

    dispatch[pickle.REDUCE[0]] = load_reduce

    def load_build(self):
        state = self.stack.pop()
        if type(self.stack[-1]) not in (_Array, _DType):
            raise Refused(f"the state of a {type(self.stack[-1]).__name__}")
        self.stack[-1].set_state(state)

    dispatch[pickle.BUILD[0]] = load_build


def load_plain_pickle(file: IO[bytes]):
    """
    Read a pickle of dicts, lists, tuples, strings, numbers and numeric NumPy arrays, also of Python 2.

    Args:
        file: open for reading, at the pickle's first byte.

    Returns:
        what was pickled. Arrays within tuples and lists of lists are left as placeholders, which nothing reads.

    Raises:
        Refused: if the file names anything else; none of it has been run.
        Exception: of any kind for a broken file.
    """
    return _resolve(_PlainUnpickler(file, encoding="latin1").load())


def _resolve(content, depth: int = 3, done: dict | None = None):
    """
    Arrays for their placeholders, in nested dicts; a limited depth, as a pickle can contain itself.

    Args:
        done: what has been resolved, by identity and depth: a small pickle can name one dict a million times.
    """
    if isinstance(content, _Array):
        if content.value is None:
            raise Refused("an array without content")
        return content.value
    if not isinstance(content, dict) or not depth:
        return content
    done = {} if done is None else done
    key = id(content), depth
    if key not in done:
        done[key] = {name: _resolve(value, depth - 1, done) for name, value in content.items()}
    return done[key]
