#!/usr/bin/env python
"""Renders a synthetic long-tailed dataset: the command ``balanced-lvis render``."""

import sys

from balanced_lvis.commands.render import main

if __name__ == "__main__":
    sys.exit(main())
