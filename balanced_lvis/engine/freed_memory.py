"""Memory between images on the CPU."""

from __future__ import annotations

import ctypes
import logging

logger = logging.getLogger(__name__)

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def keep_freed_memory(device: str = "cpu") -> bool:
    """
    Let this process use freed memory again instead of handing it back to the system, if it computes on the CPU.

    There, a step allocates every activation and gradient anew. glibc maps large ones from the system and unmaps them
    when they are freed, so that the kernel has to find and clear gigabytes a step, page by page. Numbers don't change;
    the process keeps what it once had.

    Args:
        device: as ``MODEL.DEVICE``.

    Returns:
        whether the C library could be told so; others than glibc can't.
    """
    if device != "cpu":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # no glibc
        return False
    kept = bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, -1))
    logger.debug("Freed memory is %s", "kept" if kept else "handed back")
    return kept
