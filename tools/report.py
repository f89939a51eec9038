#!/usr/bin/env python
"""Writes one HTML file about one or more runs: the command ``balanced-lvis report``."""

import sys

from balanced_lvis.commands.report import main

if __name__ == "__main__":
    sys.exit(main())
