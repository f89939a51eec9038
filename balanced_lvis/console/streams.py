"""Standard output and error that may be full, closed or a pipe without a reader: no reason for a run to end."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator

STREAMS = ("stdout", "stderr")


class LenientStream:
    """
    A text stream whose errors of writing are noted instead of raised.

    Args:
        stream: to write to.
        error: that it is known to have.
        name: for a warning on standard error when something could not be written; none is shown where it is empty.

    Attributes:
        error: the first one; None if there was none.
    """

    def __init__(self, stream, error: OSError | None = None, name: str = ""):
        self._stream = stream
        self._name = name
        self.error = error

    def write(self, text: str) -> int:
        """As a text stream's."""
        with self._noted():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """As a text stream's."""
        with self._noted():
            self._stream.flush()

    def drain(self) -> None:
        """Write what is left in its buffer, or drop it, so that Python's own exit does not fail to write it."""
        self.flush()
        if self.error is not None:
            self._drop()

    def __getattr__(self, name: str):
        return getattr(self._stream, name)

    @contextlib.contextmanager
    def _noted(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            if not isinstance(error, OSError) and not self._stream.closed:
                raise
            self._note(error if isinstance(error, OSError) else _bad_descriptor())

    def _note(self, error: OSError) -> None:
        is_first, self.error = self.error is None, self.error or error
        if error.errno == errno.EPIPE:
            self._drop()  # nobody will ever read it; a full disk may be emptied
        elif is_first and self._name:
            print(f"warning: {self._name} can't be written ({error.strerror}); the run continues.", file=sys.stderr)

    def _drop(self) -> None:
        """Lead the descriptor nowhere; child processes and libraries in C write to it too."""
        with contextlib.suppress(OSError, ValueError):
            number = self._stream.fileno()
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), number)
            self._stream.flush()


def keep_streams() -> None:
    """Make this process's standard output and error lenient; a text that they can't encode is escaped."""
    _fill_descriptors()
    for name in STREAMS:
        stream = getattr(sys, name)
        if isinstance(stream, LenientStream):
            continue
        error = None
        if stream is None:  # closed by whoever has started this process
            stream, error = open(os.devnull, "w", encoding="utf-8"), _bad_descriptor()  # noqa: SIM115
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
        setattr(sys, name, LenientStream(stream, error))


@contextlib.contextmanager
def kept_streams() -> Iterator[LenientStream]:
    """
    :func:`keep_streams` within a context, at whose end nothing is left that Python could fail to write at its exit.

    Yields:
        standard output.
    """
    before = {name: getattr(sys, name) for name in STREAMS}
    keep_streams()
    streams = {name: getattr(sys, name) for name in STREAMS}
    try:
        yield streams["stdout"]
    finally:
        for name, stream in streams.items():
            stream.drain()
            setattr(sys, name, before[name])


def _fill_descriptors() -> None:
    """
    Open those of the first three that are closed: else the next file that is opened, such as a checkpoint, would get
    their number, and whatever a library in C writes to standard error.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
            os.set_inheritable(opened, True)


def _bad_descriptor() -> OSError:
    return OSError(errno.EBADF, os.strerror(errno.EBADF))
