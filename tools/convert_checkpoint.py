#!/usr/bin/env python
"""Converts checkpoints between layouts: the command ``balanced-lvis convert``."""

import sys

from balanced_lvis.commands.convert import main

if __name__ == "__main__":
    sys.exit(main())
