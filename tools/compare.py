#!/usr/bin/env python
"""Trains every method with several seeds and compares them: the command ``balanced-lvis compare``."""

if __name__ == "__main__":
    import _early_signals  # noqa: F401  before imports that take seconds

import sys

from balanced_lvis.commands.compare import main

if __name__ == "__main__":
    sys.exit(main())
