"""Python's collector of reference cycles."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def without_cycle_detection() -> Iterator[None]:
    """
    Context without searches for reference cycles, for code that makes millions of lists and no cycles.

    Each search visits all objects that are alive. Objects without cycles are freed as usual.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
