#!/usr/bin/env python
"""Breaks AP down by error type, category and size: the command ``balanced-lvis analyze-results``."""

import sys

from balanced_lvis.commands.analyze_results import main

if __name__ == "__main__":
    sys.exit(main())
