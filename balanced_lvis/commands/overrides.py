"""Overrides of the config on a command line."""

from __future__ import annotations

import os

from ..config import default_config


def split_overrides(words: list[str]) -> tuple[list[str], list[str]]:
    """
    Separate the files of an option with many values from the overrides after it, which argparse takes for files.

    Args:
        words: files, optionally followed by ``KEY VALUE`` pairs. An existing file is never taken for a key.

    Returns:
        the files; the pairs, as a flat list.
    """
    sections = set(default_config())
    for i, word in enumerate(words):
        if i and word.partition(".")[0] in sections and not os.path.exists(word):
            return words[:i], words[i:]
    return words, []
