"""Printing and logging with escape sequences in names from files made visible."""

from __future__ import annotations

import copy
import logging
import sys

from ..utils.text import indented, printable


def print_text(text: object) -> None:
    """Prints the result of a command, of one or several lines."""
    print(printable(text), flush=True)


def print_error(message: object) -> None:
    """Prints an error to standard error; lines after the first are indented."""
    print(f"error: {indented(message)}", file=sys.stderr, flush=True)


def escape_logged(logger: logging.Logger) -> None:
    """Makes the handlers of a logger escape the messages."""
    for handler in logger.handlers:
        if not isinstance(handler.formatter, EscapingFormatter):
            handler.setFormatter(EscapingFormatter(handler.formatter or logging.Formatter()))
            _escape_unencodable(getattr(handler, "stream", None))


class EscapingFormatter(logging.Formatter):
    """
    Formats messages and tracebacks without escape sequences, and indents the lines after the first.

    A class or file name therefore can't forge a line that starts with a time and the name of a logger.

    Args:
        inner: formats the records; its colours are kept.
    """

    def __init__(self, inner: logging.Formatter):
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        """As in the base class."""
        shown = copy.copy(record)
        shown.msg, shown.args = indented(record.getMessage()), None
        if record.exc_info:
            shown.exc_text = indented(self._inner.formatException(record.exc_info))
        text = self._inner.format(shown)
        record.name = shown.name  # Detectron2's formatter shortens it, which would affect later handlers
        return text


def _escape_unencodable(stream) -> None:
    if hasattr(stream, "reconfigure") and not stream.closed:
        stream.reconfigure(errors="backslashreplace")
