"""What a training and the parsers have to bear for hours: kills, damaged files, and inputs that nobody meant well."""

from balanced_lvis import _detectron2

_detectron2.require()

from .kills import KillLoop  # noqa: E402
from .soak import soak  # noqa: E402
from .training_process import SETTINGS  # noqa: E402

__all__ = ["SETTINGS", "KillLoop", "soak"]
