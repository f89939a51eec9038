"""Standard output and error whose failure (full disk, closed stream, broken pipe) does not end a run."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator

STREAMS = ("stdout", "stderr")


class LenientStream:
    """
    A text stream that records write errors instead of raising them.

    Args:
        stream: stream to write to.
        error: error that the stream is already known to have.
        name: name for a warning on standard error after the first write error; empty for no warning.

    Attributes:
        error: the first error; None if there was none.
    """

    def __init__(self, stream, error: OSError | None = None, name: str = ""):
        self._stream = stream
        self._name = name
        self.error = error

    def write(self, text: str) -> int:
        """As for any text stream."""
        with self._noted():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """As for any text stream."""
        with self._noted():
            self._stream.flush()

    def drain(self) -> None:
        """Writes or drops the rest of the buffer, so that Python does not fail to write it at exit."""
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
            self._drop()  # there is no reader any more; a full disk, in contrast, may be freed
        elif is_first and self._name:
            print(f"warning: {self._name} can't be written ({error.strerror}); the run continues.", file=sys.stderr)

    def _drop(self) -> None:
        """Redirects the descriptor to the null device; child processes and C libraries write to it too."""
        with contextlib.suppress(OSError, ValueError):
            number = self._stream.fileno()
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), number)
            self._stream.flush()


def keep_streams() -> None:
    """Makes standard output and error lenient; text that they can't encode is escaped."""
    _fill_descriptors()
    for name in STREAMS:
        stream = getattr(sys, name)
        if isinstance(stream, LenientStream):
            continue
        error = None
        if stream is None:  # closed by the parent process
            stream, error = open(os.devnull, "w", encoding="utf-8"), _bad_descriptor()  # noqa: SIM115
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
        setattr(sys, name, LenientStream(stream, error))


@contextlib.contextmanager
def kept_streams() -> Iterator[LenientStream]:
    """
    :func:`keep_streams` as a context. Its end drains the streams, so that Python does not fail to write them at exit.

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
    Opens the first three descriptors if they are closed. Otherwise the next opened file, such as a checkpoint, would
    get the number of standard error, and everything that a C library writes to it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # gets the lowest free number
            os.set_inheritable(opened, True)


def _bad_descriptor() -> OSError:
    return OSError(errno.EBADF, os.strerror(errno.EBADF))
