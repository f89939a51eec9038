"""Memory between training steps on the CPU."""

from __future__ import annotations

import ctypes
import logging

logger = logging.getLogger(__name__)

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """
    Let this process use freed memory again instead of handing it back to the system.

    A training step on the CPU allocates every activation and gradient anew. glibc maps large ones from the system and
    unmaps them when they are freed, so that the kernel has to find and clear gigabytes a step, page by page. Numbers
    don't change; the process keeps what it once had.

    Returns:
        whether the C library could be told so; others than glibc can't.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # no glibc
        return False
    kept = bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, -1))
    logger.debug("Freed memory is %s", "kept" if kept else "handed back")
    return kept
