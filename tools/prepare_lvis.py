#!/usr/bin/env python
"""Downloads, links and checks LVIS-1.0: the command ``balanced-lvis prepare-lvis``."""

import sys

from balanced_lvis.commands.prepare_lvis import main

if __name__ == "__main__":
    sys.exit(main())
