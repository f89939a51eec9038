"""An unpickler that limits names, calls, memory and time."""

from __future__ import annotations

import mmap
import pickle
import struct
import sys
from collections.abc import Callable
from typing import IO, Any, ClassVar

from .memory_budget import Budget

_DISABLED = (
    pickle.INST, pickle.OBJ, pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.PERSID, pickle.NEXT_BUFFER,
    pickle.READONLY_BUFFER,
)  # fmt: skip
_NUMBER_LENGTH = 40  # characters of a number in text form
_TRUTH_VALUES = {b"00": False, b"01": True}
_STEP = 32  # bytes charged for any opcode
# Opcodes that create an object, and bytes charged for it with its place in a container or in the memo.
_COSTS = {
    pickle.MARK: 160, pickle.EMPTY_LIST: 100, pickle.EMPTY_DICT: 100, pickle.EMPTY_SET: 260, pickle.FROZENSET: 260,
    pickle.LIST: 100, pickle.DICT: 300, pickle.TUPLE: 100, pickle.TUPLE1: 60, pickle.TUPLE2: 70, pickle.TUPLE3: 80,
    pickle.SETITEM: 120, pickle.MEMOIZE: 130, pickle.PUT: 130, pickle.BINPUT: 130, pickle.LONG_BINPUT: 130,
    pickle.GLOBAL: 200, pickle.STACK_GLOBAL: 200, pickle.REDUCE: 200, pickle.NEWOBJ: 200, pickle.NEWOBJ_EX: 200,
    pickle.BINPERSID: 200, pickle.BUILD: 200,
}  # fmt: skip
_TEXTS = (
    pickle.STRING, pickle.BINSTRING, pickle.SHORT_BINSTRING, pickle.UNICODE, pickle.BINUNICODE,
    pickle.SHORT_BINUNICODE, pickle.BINUNICODE8, pickle.BINBYTES, pickle.SHORT_BINBYTES, pickle.BINBYTES8,
    pickle.BYTEARRAY8, pickle.LONG1, pickle.LONG4,
)  # fmt: skip
_TABLE_ENTRY = 120  # bytes per entry of a dict or set


class RefusedError(pickle.UnpicklingError):
    """A pickle uses something that is not allowed, which the message names."""


def size_of(value) -> int:
    """Bytes of a shallow copy of a value."""
    return sys.getsizeof(value) + (_TABLE_ENTRY * len(value) if isinstance(value, (list, tuple, dict, set)) else 0)


def _is_key(value) -> bool:
    """Whether hashing a value is fast. Nested tuples can take forever."""
    if type(value) is tuple and len(value) < 10:
        return all(type(part) in _KEYS for part in value)
    return type(value) in _KEYS


_KEYS = (str, bytes, int, float, bool, type(None))


def _charged(code: int, load):
    cost = _COSTS.get(bytes([code]), _STEP)
    is_text = bytes([code]) in _TEXTS

    def charged(unpickler):
        unpickler.budget.take(cost)
        load(unpickler)
        if is_text:  # at most as long as the file, so that it can be counted afterwards
            unpickler.budget.take(sys.getsizeof(unpickler.stack[-1]))

    return charged


class LimitedUnpickler(pickle._Unpickler):  # the C version allocates any size that a file states
    """
    Unpickler that rejects names and calls unless a subclass allows them.

    Args:
        file: file open for reading; memory-mapped, so that a size stated in the file is not allocated.
        budget: memory that may be used.
    """

    # Attributes of the base class that type stubs leave out.
    read: Callable[[int], bytes]
    readline: Callable[[], bytes]
    append: Callable[[object], None]
    pop_mark: Callable[[], list]
    stack: list

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        code: load for code, load in pickle._Unpickler.dispatch.items() if bytes([code]) not in _DISABLED
    }

    def __init__(self, file: IO[bytes] | mmap.mmap, budget: Budget):
        super().__init__(file, encoding="latin1")
        self.budget = budget

    def __init_subclass__(cls):
        """Charge for every opcode of the subclass."""
        super().__init_subclass__()
        cls.dispatch = {code: _charged(code, load) for code, load in cls.dispatch.items()}

    def find_class(self, module, name):
        # A malicious file can use names of any length and type.
        raise RefusedError(f"the Python object {str(module)[:80]}.{str(name)[:80]}")

    def call(self, function, arguments):
        """Result of a call by REDUCE or NEWOBJ."""
        raise RefusedError(f"a call of a {type(function).__name__}")

    def build(self, instance, state) -> None:
        """Set the state of an instance, for BUILD."""
        raise RefusedError(f"the state of a {type(instance).__name__}")

    def load_bytearray8(self):
        # The base class allocates the stated size before it reads.
        (size,) = struct.unpack("<Q", self.read(8))
        content = self.read(size)
        if len(content) < size:
            raise EOFError(f"{size} bytes are stated, {len(content)} left")
        self.append(bytes(content))

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8

    def load_reduce(self):
        arguments = self.stack.pop()
        self.stack[-1] = self.call(self.stack[-1], arguments)

    dispatch[pickle.REDUCE[0]] = dispatch[pickle.NEWOBJ[0]] = load_reduce

    def load_newobj_ex(self):
        raise RefusedError("an object created with keyword arguments")

    dispatch[pickle.NEWOBJ_EX[0]] = load_newobj_ex

    def load_build(self):
        state = self.stack.pop()
        self.build(self.stack[-1], state)

    dispatch[pickle.BUILD[0]] = load_build

    def load_int(self):
        text = self._number()
        self.append(_TRUTH_VALUES[text] if text in _TRUTH_VALUES else int(text, 0))

    dispatch[pickle.INT[0]] = load_int

    def load_long(self):
        self.append(int(self._number().rstrip(b"L"), 0))

    dispatch[pickle.LONG[0]] = load_long

    def _number(self) -> bytes:
        # Conversion takes time quadratic in the number of digits.
        text = self.readline()[:-1]
        if len(text) > _NUMBER_LENGTH:
            raise RefusedError(f"a number of {len(text):,} characters")
        return text

    def load_setitem(self):
        value, key = self.stack.pop(), self.stack.pop()
        self._set_items([key, value])

    dispatch[pickle.SETITEM[0]] = load_setitem

    def load_setitems(self):
        self._set_items(self.pop_mark())

    dispatch[pickle.SETITEMS[0]] = load_setitems

    def load_dict(self):
        items = self.pop_mark()
        self.append({})
        self._set_items(items)

    dispatch[pickle.DICT[0]] = load_dict

    def _set_items(self, items: list) -> None:
        self._check_keys(items[::2])
        target = self.stack[-1]
        for key, value in zip(items[::2], items[1::2]):
            target[key] = value

    def load_additems(self):
        items = self.pop_mark()
        self._check_keys(items)
        self.stack[-1].update(items)

    dispatch[pickle.ADDITEMS[0]] = load_additems

    def load_frozenset(self):
        items = self.pop_mark()
        self._check_keys(items)
        self.append(frozenset(items))

    dispatch[pickle.FROZENSET[0]] = load_frozenset

    def _check_keys(self, keys: list) -> None:
        self.budget.take(_TABLE_ENTRY * len(keys))
        for key in keys:
            if not _is_key(key):
                raise RefusedError(f"a key of type {type(key).__name__}")
