"""
Training images that can't be read, or whose annotations can't be used: left out up to a limit, and told.

A loader's worker attaches what it met to the record that it made instead. So it is known when the record is used, by
the process that uses it: the same images in a run that was interrupted or not, with any number of workers.
"""

from __future__ import annotations

import logging

from detectron2.utils import comm

from ..utils.errors import InputError
from ..utils.text import one_line

logger = logging.getLogger(__name__)

_KEY = "broken_images"
_SHOWN = 5


def attach(record: dict | None, broken: dict[str, str]) -> dict:
    """
    Args:
        record: of the image that took the place of broken ones; None where there were too many.
        broken: file name -> why it can't be used.
    """
    return {**(record or {}), _KEY: broken}


def reason_of(error: Exception) -> str:
    """What is wrong with an image, in words; errors of our own need no type."""
    return str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"[:300]


class BrokenImages:
    """
    The broken images of a run, each counted once, however often it was drawn.

    Args:
        limit: as ``DATALOADER.MAX_BROKEN``.

    Attributes:
        found: file name -> why it can't be used: those of this process, and of all of them since the last
            :meth:`share`.
    """

    def __init__(self, limit: int = 0):
        self.limit = limit
        self.found: dict[str, str] = {}

    def take(self, batch: list[dict]) -> None:
        """
        Detach what is attached to the records of a batch.

        Raises:
            InputError: if this process alone has met more than ``limit``, or no image that can be used.
        """
        for record in batch:
            for name, reason in record.pop(_KEY, {}).items():
                if name not in self.found:
                    self.found[name] = reason
                    if self.limit:
                        logger.warning(
                            "Left out, another image takes its place: %s (%s)", one_line(name), one_line(reason)
                        )
            if not record:
                self.limit = min(self.limit, len(self.found) - 1)
        self.check()

    def share(self) -> None:
        """
        Tell all processes what each has met; all have to call it.

        Raises:
            InputError: in all of them, if they are more than ``limit`` together.
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
            InputError: if there are more than ``limit``, naming the first ones.
        """
        if len(self.found) <= self.limit:
            return
        lines = [f"\n  {one_line(name)}: {one_line(reason)}" for name, reason in sorted(self.found.items())]
        more = f"\n  and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
        raise InputError(
            f"{len(lines)} training image(s) can't be used, more than DATALOADER.MAX_BROKEN = {self.limit}:"
            f"{''.join(lines[:_SHOWN])}{more}\nReplace or remove them, or raise that limit; --resume goes on from the "
            "last checkpoint."
        )
