#!/usr/bin/env python
"""Trains and compares two methods on the rendered dataset: the command ``balanced-lvis quickstart``."""

if __name__ == "__main__":
    import _early_signals  # noqa: F401  before imports that take seconds

import sys

from balanced_lvis.commands.quickstart import main

if __name__ == "__main__":
    sys.exit(main())
