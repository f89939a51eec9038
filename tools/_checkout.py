"""
Makes the modules of this checkout importable, also those that are not installed: ``benchmarks``, ``gpu_check``, ``soak``.

The checkout comes first on the path, as tools have the same names as these packages.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if sys.path[0] != str(ROOT):
    sys.path.insert(0, str(ROOT))
