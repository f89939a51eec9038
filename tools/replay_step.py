#!/usr/bin/env python
"""Repeats a training step that was not finite: the command ``balanced-lvis replay``."""

import sys

from balanced_lvis.commands.replay import main

if __name__ == "__main__":
    sys.exit(main())
