"""``python -m balanced_lvis``: the console command ``balanced-lvis``."""

import sys

from balanced_lvis_cli import main

if __name__ == "__main__":
    sys.exit(main())
