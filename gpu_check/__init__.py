"""What to run first on a machine with a new kind of GPU: does everything work there, and with the same results?"""

from balanced_lvis import _detectron2

_detectron2.require()

from .checks import CHECKS  # noqa: E402
from .verdicts import FAILED, Context, Result, run_checks  # noqa: E402

__all__ = ["CHECKS", "FAILED", "Context", "Result", "run_checks"]
