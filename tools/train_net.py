#!/usr/bin/env python
"""Trains a model and evaluates it: the command ``balanced-lvis train``."""

if __name__ in ("__main__", "__mp_main__"):
    import _early_signals  # noqa: F401  before imports that take seconds

import sys

from balanced_lvis.commands.train import main

if __name__ == "__main__":
    sys.exit(main())
