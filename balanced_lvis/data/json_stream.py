"""The elements of a large JSON file's lists, one after the other, in bounded memory."""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Collection, Iterator
from typing import IO, Protocol

_WHITESPACE = re.compile(r"[ \t\n\r]*")
_CHUNK = 1 << 22  # bytes read at a time; lists' elements are far smaller
_NOT_UTF_8 = "it is not UTF-8; save it as UTF-8"
_LONGEST = 1 << 26  # characters of an element, about: an image's annotation has some thousands


class Readable(Protocol):
    """A binary file, or what reads one on its behalf."""

    def read(self, size: int, /) -> bytes:
        """At most ``size`` bytes."""


class _Text:
    """A file's text from a position on, of which only as much is in memory as is being parsed."""

    def __init__(self, file: Readable, longest: float = math.inf):
        self._file, self._longest = file, longest
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()  # with a byte order mark or without
        self._text, self._at, self._dropped = "", 0, 0
        # The standard parser, so that every value is what json.load makes of it.
        self._parse = json.JSONDecoder().raw_decode

    def value(self):
        """The JSON value that begins here."""
        self.peek()
        while True:
            try:
                value, end = self._parse(self._text, self._at)
            except json.JSONDecodeError as error:
                if not self._read_more():
                    raise self._error(error.msg, error.pos) from None
                continue
            # A number this near to the end of what has been read may go on: 1 of 1.5, 1.5 of 1.5e+3.
            if len(self._text) - end > 2 or not self._read_more():
                self._at = end
                return value

    def peek(self) -> str:
        """The next character that is no white space; "" at the file's end."""
        while True:
            space = _WHITESPACE.match(self._text, self._at)
            self._at = space.end()  # type: ignore[union-attr]  # it matches the empty string, too
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._read_more():
                return ""

    def take(self, valid: str) -> str:
        """
        That character, and go past it.

        Raises:
            ValueError: if it is none of ``valid``.
        """
        character = self.peek()
        if not character or character not in valid:
            raise self._error(f"Expecting {' or '.join(map(repr, valid))}", self._at)
        self._at += 1
        return character

    def end(self) -> None:
        """
        Raises:
            ValueError: if anything but white space is left.
        """
        if self.peek():
            raise self._error("Extra data", self._at)

    def _read_more(self) -> bool:
        """Make room and read on, twice as much for a value that is longer than a chunk; False at the file's end."""
        if len(self._text) - self._at > self._longest:
            raise self._error(f"An element is broken, or longer than {self._longest:,} characters", self._at)
        data = self._file.read(max(_CHUNK, len(self._text) - self._at))
        more = self._decode(data)
        if not data:
            return False
        self._dropped += self._at
        self._text, self._at = self._text[self._at :] + more, 0
        return True

    def _decode(self, data: bytes) -> str:
        """
        Raises:
            ValueError: if it is not UTF-8, or half a character is left at the file's end.
        """
        try:
            text = self._decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            cut_off = not data and error.reason == "unexpected end of data"
            raise ValueError("it is cut off within a character" if cut_off else _NOT_UTF_8) from error
        if "\0" in text[:4] and not self._text and not self._dropped:  # UTF-16 or UTF-32 without a byte order mark
            raise ValueError(_NOT_UTF_8)
        return text

    def _error(self, message: str, at: int) -> ValueError:
        return ValueError(f"{message} (char {self._dropped + at})")


def stream_lists(
    file: Readable,
    keys: Collection[str],
    optional: Collection[str] = (),
    seen: set[str] | None = None,
    longest: float = _LONGEST,
) -> Iterator[tuple[str, object]]:
    """
    Parse a JSON object whose bulk is in lists.

    Args:
        file: UTF-8, with or without a byte order mark; read from its position to its end.
        keys: of the members whose values are lists to be taken apart.
        optional: those of them that may be missing.
        seen: gets the keys that are there, each before its first element is yielded.
        longest: characters that an element of a list, or a member that is none, may have, give or take those that are
            read at a time.

    Yields:
        (key, element) of these, in the file's order, each element as ``json.load`` makes it. Other members are parsed
        and dropped.

    Raises:
        ValueError: if the file is not valid JSON (then with the position), not UTF-8, not an object, or if one of
            ``keys`` is missing, is there twice or is not a list.
    """
    text, seen = _Text(file, longest), set() if seen is None else seen
    text.take("{")
    more = text.peek() != "}"
    if not more:
        text.take("}")
    while more:
        if text.peek() != '"':
            text.take('"')
        key = text.value()
        text.take(":")
        if key in seen:
            raise ValueError(f"it has {key!r} twice")
        if key in keys:
            seen.add(key)
            if text.peek() not in ("[", ""):
                raise ValueError(f"its {key!r} is not a list")
            yield from ((key, element) for element in _elements(text))
        elif text.peek() == "[":
            for _ in _elements(text):  # dropped one at a time: the list may be longer than memory
                pass
        else:
            text.value()
        more = text.take(",}") == ","
    text.end()
    missing = [key for key in keys if key not in seen and key not in optional]
    if missing:
        raise ValueError(f"it has no {' and no '.join(map(repr, missing))}")


def stream_list(file: IO[bytes], longest: float = math.inf) -> Iterator:
    """
    Parse a JSON list.

    Args:
        file: as of :func:`stream_lists`.
        longest: characters that an element may have, give or take those that are read at a time; a broken one could
            make all the rest of the file be read else.

    Yields:
        its elements, each as ``json.load`` makes it.

    Raises:
        ValueError: if the file is not valid JSON (then with the position), not UTF-8, or not a list.
    """
    text = _Text(file, longest)
    yield from _elements(text)
    text.end()


def _elements(text: _Text) -> Iterator:
    text.take("[")
    if text.peek() == "]":
        text.take("]")
        return
    more = True
    while more:
        yield text.value()
        more = text.take(",]") == ","
