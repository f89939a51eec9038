"""Memory limits for reading untrusted files."""

from __future__ import annotations

_CONSTANT = 64 << 20  # bytes allowed for any file
_FACTOR = 16  # plus this multiple of the file size


class OverBudgetError(ValueError):
    """A file that requires more memory than a valid file of its size."""


class Budget:
    """
    Counts the memory of a parser before it is allocated.

    Args:
        file_size: size of the file in bytes.
    """

    def __init__(self, file_size: int):
        self.file_size = file_size
        self.limit = self.left = _CONSTANT + _FACTOR * file_size

    def take(self, size: int) -> None:
        """
        Count an allocation.

        Args:
            size: approximate size in bytes.

        Raises:
            OverBudgetError: if the total exceeds the limit.
        """
        self.left -= max(size, 0)
        if self.left < 0:
            raise OverBudgetError(
                f"reading its {self.file_size:,} bytes would take more than {self.limit:,} bytes of memory"
            )
