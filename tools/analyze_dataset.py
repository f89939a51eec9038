#!/usr/bin/env python
"""Shows the class frequencies of a dataset: the command ``balanced-lvis analyze-dataset``."""

import sys

from balanced_lvis.commands.analyze_dataset import main

if __name__ == "__main__":
    sys.exit(main())
