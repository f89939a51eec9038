#!/usr/bin/env python
"""Trains image classifiers with every method and compares them: the command ``balanced-lvis classification``."""

if __name__ == "__main__":
    import _early_signals  # noqa: F401  before imports that take seconds

import sys

import _no_detectron2  # noqa: F401

from balanced_lvis.commands.classification import main

if __name__ == "__main__":
    sys.exit(main())
