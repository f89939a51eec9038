"""Checks that everything runs on a new type of GPU and gives the same results."""

from balanced_lvis import _detectron2

_detectron2.require()

from .checks import CHECKS  # noqa: E402
from .verdicts import FAILED, Context, Result, run_checks  # noqa: E402

__all__ = ["CHECKS", "FAILED", "Context", "Result", "run_checks"]
