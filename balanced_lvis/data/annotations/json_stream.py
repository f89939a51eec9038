"""
Streaming parser for the lists of large JSON files, in bounded memory.

msgspec parses whole files only. The elements of a list that are in memory are therefore passed to it as a list of their
own. What it can't parse (NaN, large numbers, half of a surrogate pair, invalid JSON) is parsed by Python's ``json``,
whose values and error messages are those of ``json.load``.
"""

from __future__ import annotations

import codecs
import json
import math
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import IO, Protocol

import msgspec

from ...utils.garbage_collection import without_cycle_detection

_WHITESPACE = re.compile(r"[ \t\n\r]*")
_BETWEEN_OBJECTS = re.compile(r"\}[ \t\n\r]*,[ \t\n\r]*\{")
_LIST_END = re.compile(r"\}[ \t\n\r]*\]")
_CHUNK = 1 << 20  # bytes read at a time; elements of lists are far smaller
_NOT_UTF_8 = "it is not UTF-8; save it as UTF-8"
_LONGEST = 1 << 26  # characters of an element, approximately; an annotation has some thousands

Decoder = Callable[[str], list]
# Equal to ``json.loads``, except that integers of more than 64 bits may be floats.
decode_any: Decoder = msgspec.json.Decoder(list).decode


def load_json(path: str | os.PathLike):
    """
    Load a JSON file in UTF-8, with or without a byte order mark.

    Returns:
        its value as from ``json.load``, except that integers of more than 64 bits may be floats.

    Raises:
        OSError: if it can't be read.
        ValueError: if it is not valid JSON or not UTF-8.
        RecursionError: if it is nested too deeply.
    """
    with open(path, "rb") as file:
        data = file.read()
    with without_cycle_detection():
        try:
            return msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return json.loads(data.decode("utf-8-sig"))


class Readable(Protocol):
    """A binary file, or what reads one on its behalf."""

    def read(self, size: int, /) -> bytes:
        """At most ``size`` bytes."""


class _Text:
    """The text of a file from a position on. Only the part that is being parsed is in memory."""

    def __init__(self, file: Readable, longest: float = math.inf):
        self._file, self._longest = file, longest
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()  # with a byte order mark or without
        self._text, self._at, self._dropped = "", 0, 0
        # The standard parser, so that every value is the same as from json.load.
        self._parse = json.JSONDecoder().raw_decode
        self._is_refused = False  # until more is read: the fast decoder can't decode what is in memory

    def objects(self, decode: Decoder) -> list:
        """
        Decode the objects of a list that are in memory, from this position on.

        Args:
            decode: decodes a JSON list, or raises an error of msgspec.

        Returns:
            at least one element, or [] if ``decode`` can't decode them, or if no object is certain to be complete.
        """
        if self._is_refused:
            return []
        for end in self._ends_of_objects():
            try:
                # If this is a valid list, the text up to ``end`` consists of whole elements of the list.
                found = decode(f"[{self._text[self._at : end]}]")
            except (msgspec.DecodeError, RecursionError):
                self._is_refused = True
                continue
            self._at, self._is_refused = end, False
            return found
        self._is_refused = True  # or the same text would be searched again for every element
        return []

    def _ends_of_objects(self) -> Iterator[int]:
        """Likely ends: of the last object that is followed by another one, and of the last object of a list."""
        end = len(self._text)
        while (end := self._text.rfind("}", self._at, end)) >= 0:
            if _BETWEEN_OBJECTS.match(self._text, end):
                yield end + 1
                break
        if last := _LIST_END.search(self._text, self._at):
            yield last.start() + 1

    def value(self):
        """Parse the JSON value at this position."""
        self.peek()
        while True:
            try:
                value, end = self._parse(self._text, self._at)
            except json.JSONDecodeError as error:
                if not self._read_more():
                    raise self._error(error.msg, error.pos) from None
                continue
            # A number at the end of the chunk may be incomplete: 1 of 1.5, 1.5 of 1.5e+3.
            if len(self._text) - end > 2 or not self._read_more():
                self._at = end
                return value

    def peek(self) -> str:
        """The next character that is not white space; "" at the end of the file."""
        while True:
            space = _WHITESPACE.match(self._text, self._at)
            self._at = space.end()  # type: ignore[union-attr]  # it matches the empty string, too
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._read_more():
                return ""

    def take(self, valid: str) -> str:
        """
        Return that character, and advance past it.

        Raises:
            ValueError: if it is not one of ``valid``.
        """
        character = self.peek()
        if not character or character not in valid:
            raise self._error(f"Expecting {' or '.join(map(repr, valid))}", self._at)
        self._at += 1
        return character

    def end(self) -> None:
        """
        Raises:
            ValueError: if anything except white space is left.
        """
        if self.peek():
            raise self._error("Extra data", self._at)

    def _read_more(self) -> bool:
        """Drop parsed text and read more, doubling for values longer than a chunk; False at the end of the file."""
        if len(self._text) - self._at > self._longest:
            raise self._error(f"An element is invalid, or longer than {self._longest:,} characters", self._at)
        data = self._file.read(max(_CHUNK, len(self._text) - self._at))
        more = self._decode(data)
        if not data:
            return False
        self._dropped += self._at
        self._text, self._at, self._is_refused = self._text[self._at :] + more, 0, False
        return True

    def _decode(self, data: bytes) -> str:
        """
        Raises:
            ValueError: if it is not UTF-8, or ends within a character.
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
    Parse a JSON object that consists mainly of lists.

    Args:
        file: UTF-8, with or without a byte order mark; read from its position to its end.
        keys: keys of the members whose lists are yielded.
        optional: keys that may be missing.
        seen: receives the keys of the file, each before its first element is yielded.
        longest: the largest number of characters of an element, or of a member that is not a list, up to the size of a
            chunk.

    Yields:
        (key, element) in the file's order, each element as from ``json.load``. Other members are parsed and dropped.

    Raises:
        ValueError: if the file is not valid JSON (then with the position), not UTF-8, not an object, or if one of
            ``keys`` is missing, occurs twice or is not a list.
    """
    for key, elements in stream_parts(file, keys, {}, optional, seen, longest):
        yield from ((key, element) for element in elements)


def stream_parts(
    file: Readable,
    keys: Collection[str],
    decoders: Mapping[str, Decoder],
    optional: Collection[str] = (),
    seen: set[str] | None = None,
    longest: float = _LONGEST,
) -> Iterator[tuple[str, list]]:
    """
    As :func:`stream_lists`, but many elements at a time.

    Args:
        file, keys, optional, seen, longest: as for :func:`stream_lists`.
        decoders: by key, what decodes the objects of that list: a method of ``msgspec.json.Decoder``.

    Yields:
        (key, elements) in the file's order, with at least one element. They are from the list's decoder or, where there
        is none or it raises an error, as from ``json.load``.

    Raises:
        ValueError: as for :func:`stream_lists`.
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
            yield from ((key, elements) for elements in _parts(text, decoders.get(key)))
        elif text.peek() == "[":
            for _ in _parts(text, decode_any):  # dropped a part at a time: the list may not fit in memory
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
        file: as for :func:`stream_lists`.
        longest: as for :func:`stream_lists`. Without a limit, the rest of the file is read for an invalid element.

    Yields:
        its elements, each as from ``json.load``, except that integers of more than 64 bits may be floats.

    Raises:
        ValueError: if the file is not valid JSON (then with the position), not UTF-8, or not a list.
    """
    text = _Text(file, longest)
    for elements in _parts(text, decode_any):
        yield from elements
    text.end()


def _parts(text: _Text, decode: Decoder | None) -> Iterator[list]:
    text.take("[")
    if text.peek() == "]":
        text.take("]")
        return
    more = True
    while more:
        text.peek()  # reads more at the end of a chunk
        yield (decode and text.objects(decode)) or [text.value()]
        more = text.take(",]") == ","
