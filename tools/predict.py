#!/usr/bin/env python
"""Detects objects in images: the command ``balanced-lvis predict``."""

import sys

from balanced_lvis.commands.predict import main

if __name__ == "__main__":
    sys.exit(main())
