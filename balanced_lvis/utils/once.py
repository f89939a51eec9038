"""Messages that are logged once per process."""

from __future__ import annotations

import functools
from collections.abc import Callable

_CACHES: list = []


def once(report: Callable[..., None]) -> Callable[..., None]:
    """Decorator of a function that logs: a further call with the same arguments does nothing."""
    cached = functools.cache(report)
    _CACHES.append(cached)
    return cached


def forget_reports() -> None:
    """Log everything again, as in a new process."""
    for cached in _CACHES:
        cached.cache_clear()
