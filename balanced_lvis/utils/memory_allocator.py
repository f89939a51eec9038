"""Settings of the C library's memory allocator."""

from __future__ import annotations

import ctypes
import logging

logger = logging.getLogger(__name__)

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def keep_freed_memory(device: str = "cpu", most: int = -1) -> bool:
    """
    Keep freed memory in the process for reuse instead of returning it to the system, if it computes on the CPU.

    On the CPU, each step allocates its activations and gradients, and each worker of a loader the pixels of an image.
    glibc maps large blocks from the system and unmaps them when they are freed, so that the kernel must provide and
    clear gigabytes of pages per step. Results don't change; the process keeps its peak memory, or ``most``.

    Args:
        device: ``MODEL.DEVICE``.
        most: bytes of free memory at the end of the heap that are kept; -1: all.

    Returns:
        whether the setting was applied; only glibc supports it.
    """
    if device != "cpu":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # no glibc
        return False
    kept = bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, most))
    logger.debug("Freed memory is %s", "kept" if kept else "returned")
    return kept
