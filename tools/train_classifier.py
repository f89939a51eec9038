#!/usr/bin/env python
"""Trains and evaluates an image classifier: the command ``balanced-lvis train-classifier``."""

if __name__ == "__main__":
    import _early_signals  # noqa: F401  before imports that take seconds

import sys

import _no_detectron2  # noqa: F401

from balanced_lvis.commands.train_classifier import main

if __name__ == "__main__":
    sys.exit(main())
