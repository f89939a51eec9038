"""Class names as they are drawn: plain text of limited length, in installed fonts that have their characters."""

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

LONGEST = 40  # characters of a name that are drawn
_GENERIC = "sans-serif"
# Matplotlib's own fonts for formulas have other characters than their tables say, and "Last Resort" has boxes.
_TEXT_FONTS = ("DejaVu", "STIXGeneral")
_BOXES = ("Last Resort", "LastResort")


class Lettering(NamedTuple):
    """
    Attributes:
        labels: {number: what is drawn for a name}.
        families: of fonts, for matplotlib, the first that has a character being used for it.
    """

    labels: dict[int, str]
    families: tuple[str, ...]


def label_text(text: str) -> str:
    """A name for a text of matplotlib: one line of at most :data:`LONGEST` characters, and never a formula."""
    return shortened(one_line(text), LONGEST).replace("$", r"\$")


def lettering(names: Mapping[int, str], word: str = "class") -> Lettering:
    """
    How to draw names. A name with a character that no installed font has is drawn as its number, and a warning is
    logged once.

    Args:
        names: {number: name}.
        word: is drawn before such a number.
    """
    return _lettering(tuple(names.items()), word)


@contextlib.contextmanager
def plain_text(families: Sequence[str]) -> Iterator[None]:
    """A context in which matplotlib's texts get these fonts, and no LaTeX is started."""
    with matplotlib.rc_context({"font.family": list(families), "text.usetex": False}), _without_notes_on_fonts():
        yield


@contextlib.contextmanager
def _without_notes_on_fonts() -> Iterator[None]:
    """A context in which matplotlib doesn't log that a family has no font of a normal weight."""
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
    with _without_notes_on_fonts():
        families, missing = _fonts_for(frozenset("".join(labels.values())))
    without = {number: name for number, name in names if missing.intersection(labels[number])}
    if without:
        logger.warning(
            "No installed font has all characters of %d name(s): %s. They are drawn as numbers, such as '%s %s'; "
            "install a font that has them, such as Noto Sans CJK for Chinese, Japanese and Korean.",
            len(without), first_of(without.values(), 5), word, next(iter(without)),
        )  # fmt: skip
    return Lettering({**labels, **{number: f"{word} {number}" for number in without}}, families)


def _fonts_for(characters: frozenset[str]) -> tuple[tuple[str, ...], set[str]]:
    """Families of fonts for these characters, and the characters that no font has."""
    families, missing = [_GENERIC], set(characters) - _characters_of(_GENERIC)
    known: set[str] = set()
    for find in (_known_families, _new_families):  # the second looks at every folder of fonts
        for family in find() if missing else ():
            if missing and family not in known:
                known.add(family)
                if found := missing & _characters_of(family):
                    families.append(family)
                    missing -= found
    return tuple(families), missing


def _known_families() -> list[str]:
    """Those of matplotlib's list, without a serif first."""
    names = {entry.name for entry in font_manager.fontManager.ttflist if _is_for_text(entry.name, entry.fname)}
    return sorted(names, key=lambda name: ("sans" not in name.lower(), name))


def _new_families() -> list[str]:
    """With those that were installed after matplotlib made its list."""
    manager = font_manager.fontManager
    for path in set(font_manager.findSystemFonts()) - {entry.fname for entry in manager.ttflist}:
        with contextlib.suppress(Exception):  # whatever FreeType makes of a font that it can't use
            manager.addfont(path)
    return _known_families()


def _is_for_text(name: str, path: str) -> bool:
    of_matplotlib = os.path.realpath(path).startswith(os.path.realpath(matplotlib.get_data_path()))
    return not name.startswith(_BOXES) and (not of_matplotlib or name.startswith(_TEXT_FONTS))


def _characters_of(family: str) -> set[str]:
    """Those of the font that matplotlib takes for a family; none of a font that it can't draw with."""
    try:
        properties = font_manager.FontProperties(family=[family])
        font = font_manager.get_font(font_manager.findfont(properties, fallback_to_default=family == _GENERIC))
        return set(map(chr, font.get_charmap())) if font.scalable else set()
    except (OSError, RuntimeError, ValueError):
        return set()
