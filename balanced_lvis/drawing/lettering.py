"""Labels for class names: plain text of limited length, in installed fonts that have its characters."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import matplotlib
from matplotlib import font_manager

from ..utils.text import first_of, one_line, shortened

logger = logging.getLogger(__name__)

LONGEST = 40  # characters of a label
_GENERIC = "sans-serif"
# Matplotlib's fonts for formulas have other characters than their tables say, and "Last Resort" draws boxes.
_TEXT_FONTS = ("DejaVu", "STIXGeneral")
_BOXES = ("Last Resort", "LastResort")


class Lettering(NamedTuple):
    """
    Attributes:
        labels: {class index: label}.
        families: font families for matplotlib, which draws each character with the first family that has it.
    """

    labels: dict[int, str]
    families: tuple[str, ...]


def label_text(text: str) -> str:
    """A name as a text for matplotlib: one line of at most :data:`LONGEST` characters, not parsed as a formula."""
    return shortened(one_line(text), LONGEST).replace("$", r"\$")


def lettering(names: Mapping[int, str], word: str = "class") -> Lettering:
    """
    Labels and fonts for names. A name with a character that no installed font has is replaced by its index, and a
    warning is logged once.

    Args:
        names: {class index: name}.
        word: prefix of such an index.
    """
    return _lettering(tuple(names.items()), word)


@contextlib.contextmanager
def plain_text(families: Sequence[str]) -> Iterator[None]:
    """A context in which matplotlib uses these fonts, and not LaTeX."""
    with matplotlib.rc_context({"font.family": list(families), "text.usetex": False}), _without_font_messages():
        yield


@contextlib.contextmanager
def _without_font_messages() -> Iterator[None]:
    """A context in which matplotlib does not log that a family has no font of normal weight."""
    manager = logging.getLogger("matplotlib.font_manager")
    level = manager.level
    manager.setLevel(logging.ERROR)
    try:
        yield
    finally:
        manager.setLevel(level)


@functools.lru_cache(maxsize=8)
def _lettering(names: tuple[tuple[int, str], ...], word: str) -> Lettering:
    labels = {number: label_text(name) for number, name in names}
    with _without_font_messages():
        families, missing = _fonts_for(frozenset("".join(labels.values())))
    without = {number: name for number, name in names if missing.intersection(labels[number])}
    if without:
        logger.warning(
            "No installed font has all characters of %d name(s): %s. They are drawn as indices, such as '%s %s'; "
            "install a font that has them, such as Noto Sans CJK for Chinese, Japanese and Korean.",
            len(without), first_of(without.values(), 5), word, next(iter(without)),
        )  # fmt: skip
    return Lettering({**labels, **{number: f"{word} {number}" for number in without}}, families)


def _fonts_for(characters: frozenset[str]) -> tuple[tuple[str, ...], set[str]]:
    """Font families for these characters, and the characters that no font has."""
    families, missing = [_GENERIC], set(characters) - _characters_of(_GENERIC)
    known: set[str] = set()
    for find in (_known_families, _new_families):  # the second searches all font folders, which is slow
        for family in find() if missing else ():
            if missing and family not in known:
                known.add(family)
                if found := missing & _characters_of(family):
                    families.append(family)
                    missing -= found
    return tuple(families), missing


def _known_families() -> list[str]:
    """The families in matplotlib's list, sans-serif ones first."""
    names = {entry.name for entry in font_manager.fontManager.ttflist if _is_for_text(entry.name, entry.fname)}
    return sorted(names, key=lambda name: ("sans" not in name.lower(), name))


def _new_families() -> list[str]:
    """As :func:`_known_families`, with fonts that were installed after matplotlib built its list."""
    manager = font_manager.fontManager
    for path in set(font_manager.findSystemFonts()) - {entry.fname for entry in manager.ttflist}:
        with contextlib.suppress(Exception):  # any error of FreeType for an unusable font
            manager.addfont(path)
    return _known_families()


def _is_for_text(name: str, path: str) -> bool:
    of_matplotlib = os.path.realpath(path).startswith(os.path.realpath(matplotlib.get_data_path()))
    return not name.startswith(_BOXES) and (not of_matplotlib or name.startswith(_TEXT_FONTS))


def _characters_of(family: str) -> set[str]:
    """The characters of the font that matplotlib uses for a family; none for a font that it can't draw."""
    try:
        properties = font_manager.FontProperties(family=[family])
        font = font_manager.get_font(font_manager.findfont(properties, fallback_to_default=family == _GENERIC))
        return set(map(chr, font.get_charmap())) if font.scalable else set()
    except (OSError, RuntimeError, ValueError):
        return set()
