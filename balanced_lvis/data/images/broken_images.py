"""
Replacement and reporting of training images that can't be read or whose annotations can't be used.

A worker of the loader attaches broken images to the record that it returns instead. They are counted by the process
that uses the record, when it is used. The result is therefore the same with any number of workers, and in an
interrupted run or not.
"""

from __future__ import annotations

import logging

from detectron2.utils import comm

from ...utils.errors import InputError
from ...utils.text import one_line

logger = logging.getLogger(__name__)

_KEY = "broken_images"
_SHOWN = 5


def attach(record: dict | None, broken: dict[str, str]) -> dict:
    """
    Args:
        record: record of the replacement image; None if there were too many broken images.
        broken: file name -> why it can't be used.
    """
    return {**(record or {}), _KEY: broken}


def reason_of(error: Exception) -> str:
    """Why an image can't be used. The type of an error is part of it, except for native errors."""
    return str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"[:300]


class BrokenImages:
    """
    The broken images of a run. Each is counted once, however often it was drawn.

    Args:
        limit: as ``DATALOADER.MAX_BROKEN``.

    Attributes:
        found: file name -> why it can't be used, of this process; after :meth:`share`, of all processes.
    """

    def __init__(self, limit: int = 0):
        self.limit = limit
        self.found: dict[str, str] = {}

    def take(self, batch: list[dict]) -> None:
        """
        Detach and count the broken images of a batch.

        Raises:
            InputError: if this process alone has found more than ``limit``, or no usable image.
        """
        for record in batch:
            for name, reason in record.pop(_KEY, {}).items():
                if name not in self.found:
                    self.found[name] = reason
                    if self.limit:
                        logger.warning(
                            "Image left out and replaced by another: %s (%s)", one_line(name), one_line(reason)
                        )
            if not record:
                self.limit = min(self.limit, len(self.found) - 1)
        self.check()

    def share(self) -> None:
        """
        Merge the broken images of all processes. All processes must call it.

        Raises:
            InputError: in all processes, if there are more than ``limit`` in total.
        """
        if comm.get_world_size() > 1:
            merged = {}
            for found in comm.all_gather(self.found):
                merged.update(found)
            self.found = dict(sorted(merged.items()))
        self.check()

    def check(self) -> None:
        """
        Raises:
            InputError: if there are more than ``limit``, with the first ones.
        """
        if len(self.found) <= self.limit:
            return
        lines = [f"\n  {one_line(name)}: {one_line(reason)}" for name, reason in sorted(self.found.items())]
        more = f"\n  and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
        raise InputError(
            f"{len(lines)} training image(s) can't be used, more than DATALOADER.MAX_BROKEN = {self.limit}:"
            f"{''.join(lines[:_SHOWN])}{more}\nReplace or remove them, or raise that limit; --resume continues from "
            "the last checkpoint."
        )
