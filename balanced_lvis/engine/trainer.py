"""Detectron2's default trainer with LVIS evaluation."""

from __future__ import annotations

import contextlib
import logging
import os
from unittest import mock

import detectron2.engine.defaults as detectron2_defaults
from detectron2.engine import DefaultTrainer
from detectron2.modeling import build_model
from detectron2.utils import comm

from ..evaluation import LVISEvaluator
from ..io import write_json
from .optimizer import build_optimizer

logger = logging.getLogger(__name__)


class Trainer(DefaultTrainer):
    """Trains, evaluates by the LVIS rules, and writes ``OUTPUT_DIR/results.json`` after every evaluation."""

    def __init__(self, cfg):
        with _ddp_on_cpu(cfg.MODEL.DEVICE):
            super().__init__(cfg)

    @classmethod
    def build_model(cls, cfg):
        """Detectron2's model; a line about it instead of its several hundred."""
        model = build_model(cfg)
        parameters = sum(p.numel() for p in model.parameters())
        logger.info(
            "%s with %.1f M parameters, %d classes, on %s",
            cfg.MODEL.META_ARCHITECTURE, parameters / 1e6, cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.MODEL.DEVICE,
        )  # fmt: skip
        return model

    @classmethod
    def build_optimizer(cls, cfg, model):
        """
        Raises:
            InputError: for an unknown ``SOLVER.OPTIMIZER``.
        """
        return build_optimizer(cfg, model)

    @classmethod
    def build_evaluator(cls, cfg, dataset_name):
        """
        Raises:
            InputError: if the data set is not in LVIS format.
        """
        folder = os.path.join(cfg.OUTPUT_DIR, "inference")
        return LVISEvaluator(dataset_name, folder if len(cfg.DATASETS.TEST) == 1 else f"{folder}_{dataset_name}")

    @classmethod
    def test(cls, cfg, model, evaluators=None):
        """
        Evaluate on every data set of ``DATASETS.TEST``.

        Returns:
            {"bbox": {metric: percent}, "segm": {...}}, or that by data set where there are several; also written to
            ``OUTPUT_DIR/results.json``.
        """
        results = super().test(cfg, model, evaluators)
        if comm.is_main_process():
            path = os.path.join(cfg.OUTPUT_DIR, "results.json")
            write_json(path, results, indent=1)
            logger.info("Results written to %s", path)
        return results


@contextlib.contextmanager
def _ddp_on_cpu(device: str):
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
