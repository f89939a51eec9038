"""A limit on the memory that a file may take when it is read."""

from __future__ import annotations

_CONSTANT = 64 << 20  # bytes that any file may take
_FACTOR = 16  # of the file's size, on top


class OverBudgetError(ValueError):
    """A file that asks for more memory than one of its size can need."""


class Budget:
    """
    Counts what a parser is about to allocate, before it does.

    Args:
        file_size: of the file, in bytes.
    """

    def __init__(self, file_size: int):
        self.file_size = file_size
        self.limit = self.left = _CONSTANT + _FACTOR * file_size

    def take(self, size: int) -> None:
        """
        Args:
            size: bytes, about.

        Raises:
            OverBudgetError: if they and all before them exceed the limit.
        """
        self.left -= max(size, 0)
        if self.left < 0:
            raise OverBudgetError(
                f"its {self.file_size:,} bytes ask for more than {self.limit:,} bytes of memory when they are read"
            )
