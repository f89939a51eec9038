"""Is there room on the disk? Asked before hours of writing."""

from __future__ import annotations

import os
import shutil

from ...utils.errors import InputError

_MARGIN = 64 << 20  # bytes that stay free


def check_room(folder: str | os.PathLike, size: int, what: str) -> None:
    """
    Args:
        folder: that is written to.
        size: bytes that will be.
        what: they are, for the message.

    Raises:
        InputError: if they don't fit.
    """
    free = shutil.disk_usage(folder).free
    if size + _MARGIN > free:
        raise InputError(
            f"{what} takes {size / 1e9:.2f} GB, but {os.path.abspath(folder)} has {free / 1e9:.2f} GB free; make room, "
            "or set another folder with --root."
        )
