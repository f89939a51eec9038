"""
Makes the modules of this checkout importable, including ``benchmarks``, ``gpu_check`` and ``soak``.

They are not installed. The checkout comes first on the path, because some tools have the names of these packages.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if sys.path[0] != str(ROOT):
    sys.path.insert(0, str(ROOT))
