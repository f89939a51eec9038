#!/usr/bin/env python
"""Shows why AP is what it is: the command ``balanced-lvis analyze-results``."""

import sys

from balanced_lvis.commands.analyze_results import main

if __name__ == "__main__":
    sys.exit(main())
