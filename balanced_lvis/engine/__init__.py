"""Training and evaluation runs."""

from .. import _detectron2

_detectron2.require()

from .run import main  # noqa: E402
from .trainer import Trainer  # noqa: E402

__all__ = ["Trainer", "main"]
