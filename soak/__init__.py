"""Robustness tests for any duration: killed training runs, damaged files, and malicious input for parsers."""

from balanced_lvis import _detectron2

_detectron2.require()

from .kills import KillLoop  # noqa: E402
from .soak import soak  # noqa: E402
from .training_process import SETTINGS  # noqa: E402

__all__ = ["SETTINGS", "KillLoop", "soak"]
