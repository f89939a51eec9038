#!/usr/bin/env python
"""Shows the class frequencies of a dataset: the command ``balanced-lvis analyze``."""

import sys

from balanced_lvis.commands.analyze import main

if __name__ == "__main__":
    sys.exit(main())
