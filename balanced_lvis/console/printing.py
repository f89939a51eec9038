"""What is printed and logged, with names from files escaped."""

from __future__ import annotations

import copy
import logging
import sys

from ..utils.text import indented, printable


def print_text(text: object) -> None:
    """Print a tool's result, of one or several lines."""
    print(printable(text), flush=True)


def print_error(message: object) -> None:
    """Print why a command ends, on standard error; lines after the first are indented."""
    print(f"error: {indented(message)}", file=sys.stderr, flush=True)


def escape_logged(logger: logging.Logger) -> None:
    """Let the handlers of a logger show each message with its names escaped."""
    for handler in logger.handlers:
        if not isinstance(handler.formatter, EscapingFormatter):
            handler.setFormatter(EscapingFormatter(handler.formatter or logging.Formatter()))
            _escape_what_is_lacking(getattr(handler, "stream", None))


class EscapingFormatter(logging.Formatter):
    """
    Messages and tracebacks without escape sequences; a message's lines after the first are indented.

    So a line that starts with a time and a logger's name is the logger's own.

    Args:
        inner: makes lines of records; colours are its own.
    """

    def __init__(self, inner: logging.Formatter):
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        """As the base class's."""
        shown = copy.copy(record)
        shown.msg, shown.args = indented(record.getMessage()), None
        if record.exc_info:
            shown.exc_text = indented(self._inner.formatException(record.exc_info))
        text = self._inner.format(shown)
        record.name = shown.name  # Detectron2's formatter shortens it, for the handlers that follow too
        return text


def _escape_what_is_lacking(stream) -> None:
    if hasattr(stream, "reconfigure") and not stream.closed:
        stream.reconfigure(errors="backslashreplace")
