#!/usr/bin/env python
"""Evaluates many calibrations of a checkpoint in one pass: the command ``balanced-lvis calibrate``."""

if __name__ in ("__main__", "__mp_main__"):
    import _early_signals  # noqa: F401  before imports that take seconds

import sys

from balanced_lvis.commands.calibrate import main

if __name__ == "__main__":
    sys.exit(main())
