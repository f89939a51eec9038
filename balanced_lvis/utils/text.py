"""
Safe display of names that were read from files.

Classes, images and config keys can have any name. Escape sequences change the terminal, newlines look like another line
of a log, and lone surrogates can't be written to a file. All text that is printed, logged or drawn passes through
:func:`printable`, and names within a line through :func:`one_line`.
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
    Text of one or more lines that is safe for a terminal or a log.

    Control and format characters other than newlines and tabs, and lone surrogates, are escaped as in Python:
    ``\\x1b``, ``\\ud800``.
    """
    return _escaped(str(text), _LAYOUT)


def one_line(name: object) -> str:
    """As :func:`printable`, with newlines and tabs escaped too, for names within a line."""
    return _escaped(str(name), "")


def indented(text: object) -> str:
    """As :func:`printable`, with all lines after the first indented, so that they do not look like other messages."""
    return printable(text).replace("\n", "\n  ")


def first_of(names: Iterable[object], count: int) -> str:
    """The first ``count`` names in one line, followed by an ellipsis if there are more."""
    names = list(names)
    return ", ".join(map(one_line, names[:count])) + (", ..." if len(names) > count else "")


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type; libraries append their stack traces."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def described(error: BaseException, length: int = 200) -> str:
    """Type and first line of the message of an exception, at most ``length`` characters."""
    return f"{type(error).__name__}: {error}".splitlines()[0][:length]


def shortened(name: str, length: int) -> str:
    """A name truncated to ``length`` characters, with an ellipsis at the end."""
    return name if len(name) <= length else f"{name[: length - 1]}…"


def safe_file_name(name: str, length: int = 200) -> str:
    """
    Convert any text into a valid name of a file or folder, on any system.

    Separators, control characters and characters that Windows does not allow become ``_``, and so do the dots of ``.``
    and ``..``. Different texts can give the same name.

    Args:
        name: any text.
        length: maximum number of bytes; the suffix is kept. File systems allow 255, and temporary names are longer
            than the final ones.
    """
    kept = "".join("_" if _unseen(c) or c in _NOT_IN_FILE_NAMES else c for c in name)
    if not kept.strip("."):
        kept = "_" * max(len(kept), 1)
    stem, suffix = os.path.splitext(kept)
    suffix = suffix if len(os.fsencode(suffix)) < length else ""
    available = length - len(os.fsencode(suffix))
    return os.fsencode(stem)[:available].decode("utf-8", "ignore") + suffix


def _escaped(text: str, kept: str) -> str:
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c in kept or not _unseen(c) else c.encode("unicode_escape").decode("ascii") for c in text)


def _unseen(character: str) -> bool:
    return unicodedata.category(character) in _UNSEEN and character not in _JOINERS
