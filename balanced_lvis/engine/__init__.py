"""Training and evaluation: the trainer, its steps and hooks, checkpoints, and the processes of a job."""

from .. import _detectron2

_detectron2.require()

from .trainer import Trainer  # noqa: E402

__all__ = ["Trainer"]
