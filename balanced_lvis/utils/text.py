"""
Names that were read from files, as they may be shown.

A class, an image or a config key can have any name: escape sequences change a terminal's colours, newlines look like
the next line of a log, and lone surrogates can't be written to a file. Whatever is printed, logged or drawn goes
through :func:`printable`, and a name within a line through :func:`one_line`.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable

# Control and format characters, surrogates, and separators of lines and paragraphs.
_UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
_JOINERS = "\u200c\u200d"  # part of how Persian, Hindi and emoji are written
_LAYOUT = "\n\t"
_NOT_IN_FILE_NAMES = '/\\:*?"<>|'


def printable(text: object) -> str:
    """
    Text of several lines as a terminal or a log may show it.

    Control and format characters other than newlines and tabs, and lone surrogates, are escaped as in Python:
    ``\\x1b``, ``\\ud800``.
    """
    return _escaped(str(text), _LAYOUT)


def one_line(name: object) -> str:
    """As :func:`printable`, with newlines and tabs escaped too: for a name within a line."""
    return _escaped(str(name), "")


def indented(text: object) -> str:
    """As :func:`printable`, with lines after the first indented, so that none of them looks like another message."""
    return printable(text).replace("\n", "\n  ")


def first_of(names: Iterable[object], count: int) -> str:
    """The first ``count`` names in one line, with an ellipsis where there are more."""
    names = list(names)
    return ", ".join(map(one_line, names[:count])) + (", ..." if len(names) > count else "")


def shortened(name: str, length: int) -> str:
    """At most ``length`` characters of a name, the last of which is an ellipsis where there are more."""
    return name if len(name) <= length else f"{name[: length - 1]}…"


def safe_file_name(name: str, length: int = 200) -> str:
    """
    A name as a part of a path: one file or folder below the one that it is joined to, on any system.

    Separators, control characters and those that Windows doesn't allow become ``_``, and so do the dots of ``.`` and
    ``..``. Different names can become the same one.

    Args:
        name: any text.
        length: the largest number of bytes; the suffix is kept. File systems allow 255, and temporary names are
            longer than what they stand for.
    """
    kept = "".join("_" if _unseen(c) or c in _NOT_IN_FILE_NAMES else c for c in name)
    if not kept.strip("."):
        kept = "_" * max(len(kept), 1)
    stem, suffix = os.path.splitext(kept)
    suffix = suffix if len(os.fsencode(suffix)) < length else ""
    room = length - len(os.fsencode(suffix))
    return os.fsencode(stem)[:room].decode("utf-8", "ignore") + suffix


def _escaped(text: str, kept: str) -> str:
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c in kept or not _unseen(c) else c.encode("unicode_escape").decode("ascii") for c in text)


def _unseen(character: str) -> bool:
    return unicodedata.category(character) in _UNSEEN and character not in _JOINERS
