#!/usr/bin/env python
"""Writes, converts or validates an LVIS submission: the command ``balanced-lvis export``."""

if __name__ in ("__main__", "__mp_main__"):
    import _early_signals  # noqa: F401  before imports that take seconds

import sys

from balanced_lvis.commands.export import main

if __name__ == "__main__":
    sys.exit(main())
