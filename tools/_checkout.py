"""
Makes ``benchmarks``, ``gpu_check`` and ``soak`` importable, which are beside the package and not installed with it.

First on the path, as tools have the same names as these packages.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if sys.path[0] != str(ROOT):
    sys.path.insert(0, str(ROOT))
