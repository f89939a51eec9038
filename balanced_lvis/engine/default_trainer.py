"""What is done while Detectron2's ``DefaultTrainer`` is made, which offers no hooks there."""

from __future__ import annotations

import contextlib
import functools
from unittest import mock

import detectron2.engine.defaults as detectron2_defaults

from .checkpoints.saving import DurableSaves


def durable_checkpointer(cfg):
    """Have ``DefaultTrainer`` make our checkpointer in place of Detectron2's, which it offers no hook for."""
    make = functools.partial(DurableSaves, trust=cfg.MODEL.TRUST_WEIGHTS)
    return mock.patch.object(detectron2_defaults, "DetectionCheckpointer", make)


@contextlib.contextmanager
def ddp_on_cpu(device: str):
    """
    Let ``DefaultTrainer`` wrap a CPU model for several processes.

    Detectron2 passes ``device_ids`` to DistributedDataParallel even on the CPU, where torch refuses it, and offers no
    hook between building the model and wrapping it.
    """
    if not device.startswith("cpu"):
        yield
        return
    wrap = detectron2_defaults.create_ddp_model

    def wrap_cpu_model(model, **kwargs):
        return wrap(model, **{**kwargs, "device_ids": None})

    with mock.patch.object(detectron2_defaults, "create_ddp_model", wrap_cpu_model):
        yield
