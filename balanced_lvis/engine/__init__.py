"""Training and evaluation: the trainer, its steps and hooks, checkpoints, and the processes of a job."""

from .. import _detectron2

_detectron2.require()

from .lazy_model import build_lazy_model  # noqa: E402  registers it
from .trainer import Trainer  # noqa: E402

__all__ = ["Trainer", "build_lazy_model"]
