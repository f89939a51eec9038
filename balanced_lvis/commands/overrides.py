"""Overrides of the config on a command line."""

from __future__ import annotations

import argparse
import os
from collections.abc import Collection, Sequence

from ..config_files.names import is_lazy_override


def split_overrides(words: Sequence[str], sections: Collection[str] | None = None) -> tuple[list[str], list[str]]:
    """
    Separate the values of an option with many values from the overrides after it, which argparse takes for values.

    Args:
        words: values, optionally followed by ``KEY VALUE`` pairs, or by words ``key=value`` for a LazyConfig. An
            existing file is never taken for a key.
        sections: first parts of the keys; by default those of a detection config.

    Returns:
        the values; the overrides, as a flat list.
    """
    sections = _sections_of_detection() if sections is None else sections
    for i, word in enumerate(words):
        if (word.partition(".")[0] in sections or is_lazy_override(word)) and not os.path.exists(word):
            return list(words[:i]), list(words[i:])
    return list(words), []


def parse_with_overrides(
    parser: argparse.ArgumentParser, words: Sequence[str], sections: Collection[str] | None = None
) -> argparse.Namespace:
    """
    The arguments of a command with options of many values, which may be followed by overrides.

    Args:
        parser: its parser, with ``opts`` for the overrides.
        words: the command line.
        sections: as of :func:`split_overrides`.
    """
    arguments, overrides = split_overrides(words, sections)
    args = parser.parse_args(arguments)
    args.opts = [*args.opts, *overrides]
    return args


def _sections_of_detection() -> set[str]:
    from ..config import default_config  # needs Detectron2, which commands that pass sections don't

    return set(default_config())
