"""Shared code of all plots, with a matplotlib backend that needs no display."""

import os

import matplotlib

from ..utils.errors import InputError

matplotlib.use("Agg")
import matplotlib.pyplot as plt

_PAIRS = matplotlib.color_sequences["tab20"]  # strong and light colours alternate
COLORS = (*_PAIRS[::2], *_PAIRS[1::2])
MARKERS = "os^Dv"

__all__ = ["COLORS", "MARKERS", "check_image_file", "plt"]


def check_image_file(argument: str, path: str) -> None:
    """
    Args:
        argument: name of the argument that ``path`` is the value of.
        path: image file to write.

    Raises:
        InputError: if the file extension is not a supported image format, or its folder doesn't exist.
    """
    known = plt.figure().canvas.get_supported_filetypes()
    plt.close()
    ending = os.path.splitext(path)[1][1:].lower()
    if ending not in known:
        raise InputError(
            f"{argument} {path}: {ending!r} is not a supported image format; use {', '.join(sorted(known))}."
        )
    if not os.path.isdir(os.path.dirname(path) or "."):
        raise InputError(f"{argument} {path}: the folder does not exist; create it, or choose another path.")
