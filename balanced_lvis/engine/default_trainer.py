"""What is done while Detectron2's ``DefaultTrainer`` is made, which offers no hooks there."""

from __future__ import annotations

import contextlib
import functools
from unittest import mock

import detectron2.engine.defaults as detectron2_defaults
import torch

from .checkpoints.saving import DurableSaves


def durable_checkpointer(cfg):
    """Have ``DefaultTrainer`` make our checkpointer in place of Detectron2's, which it offers no hook for."""
    make = functools.partial(DurableSaves, trust=cfg.MODEL.TRUST_WEIGHTS)
    return mock.patch.object(detectron2_defaults, "DetectionCheckpointer", make)


@contextlib.contextmanager
def ddp_on_own_device(device: str):
    """
    Let ``DefaultTrainer`` wrap a model for several processes, on the device that it is on.

    Detectron2 passes the process's number on its machine as ``device_ids`` to DistributedDataParallel. On the CPU torch
    refuses any, and where SLURM shows each task its own GPU only, that GPU is number 0 for all of them. Detectron2
    offers no hook between building the model and wrapping it.
    """
    wrap = detectron2_defaults.create_ddp_model

    def wrap_on_own_device(model, **kwargs):
        device_ids = [torch.cuda.current_device()] if device.startswith("cuda") else None
        return wrap(model, **{**kwargs, "device_ids": device_ids})

    with mock.patch.object(detectron2_defaults, "create_ddp_model", wrap_on_own_device):
        yield
