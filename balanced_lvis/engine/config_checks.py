"""Checks of a config before anything is built."""

from __future__ import annotations

import torch
from detectron2.modeling import META_ARCH_REGISTRY, ROI_HEADS_REGISTRY

from .. import _detectron2
from ..activations import activation_class
from ..calibration.base import check_fits
from ..config.lazy.checks import check_training_values, checkpointing_option
from ..config.lazy.model import predictor_names
from ..config_files.keys import get
from ..data.copy_paste import check_copy_paste
from ..data.mapper import build_mapper
from ..data.samplers import check_sampler, check_sampler_keys
from ..evaluation.backends import check_backend
from ..lazy_config.files import lazy_config
from ..modeling.activation_checkpointing import checkpoint_activations
from ..modeling.decoupled import check_second_stage
from ..utils.errors import InputError
from .ema import check_ema
from .optimizer import build_optimizer, check_clipping, check_optimizer
from .schedule import build_schedule, check_schedule
from .speed import check_speed
from .step_builder import step_class
from .wandb_writer import check_wandb

_MINIMUM = {
    "SOLVER.IMS_PER_BATCH": 1,
    "SOLVER.META.IMS_PER_BATCH": 0,  # 0: the value of SOLVER.IMS_PER_BATCH
    "SOLVER.MAX_ITER": 1,
    "SOLVER.CHECKPOINT_PERIOD": 1,
    "SOLVER.ACCUMULATE_BATCHES": 1,
    "SOLVER.MAX_SKIPPED_STEPS": 0,
    "TEST.EVAL_PERIOD": 0,
    "TEST.LOSS_IMAGES": 0,
    "TEST.SAMPLE_IMAGES": 0,
    "DATALOADER.NUM_WORKERS": 0,
    "DATALOADER.MAX_BROKEN": 0,
}

_MOST_SAMPLES = 100


def check_config(cfg, world_size: int, evaluation_only: bool) -> None:
    """
    Run the check of every component on a config. No dataset is read.

    Args:
        cfg: the config.
        world_size: number of processes of the job.
        evaluation_only: whether nothing will be trained.

    Raises:
        InputError: if the config is invalid.
    """
    for check in CHECKS:
        check(cfg)
    if not evaluation_only:
        for check in TRAINING_CHECKS:
            check(cfg)
        step_class(cfg).check(cfg, world_size)
    if cfg.LAZY.FILE:
        check_lazy_parts(cfg, evaluation_only)


def check_activation(cfg) -> None:
    """
    Raises:
        InputError: for an unknown activation.
    """
    activation_class(cfg.MODEL.ROI_BOX_HEAD.ACTIVATION.NAME)


def check_calibration(cfg) -> None:
    """
    Raises:
        InputError: for an unknown calibration, or one that doesn't fit the activation.
    """
    head = cfg.MODEL.ROI_BOX_HEAD
    if head.CALIBRATION.NAME:
        check_fits(head.CALIBRATION.NAME, head.ACTIVATION.NAME)


def check_device(cfg) -> None:
    """
    Raises:
        InputError: for an unknown device.
    """
    try:
        torch.device(cfg.MODEL.DEVICE)
    except RuntimeError as error:
        raise InputError(f"MODEL.DEVICE is {cfg.MODEL.DEVICE!r}; it must be cuda or cpu.") from error


def check_architecture(cfg) -> None:
    """
    Raises:
        InputError: for an unknown meta-architecture.
    """
    architecture = cfg.MODEL.META_ARCHITECTURE
    if architecture not in META_ARCH_REGISTRY:
        valid = ", ".join(name for name, _ in META_ARCH_REGISTRY)
        raise InputError(f"MODEL.META_ARCHITECTURE is {architecture!r}; valid: {valid}.")


def check_roi_heads(cfg) -> None:
    """
    Raises:
        InputError: for unknown RoI heads, or Detectron2's own.
    """
    heads = cfg.MODEL.ROI_HEADS.NAME
    if heads not in ROI_HEADS_REGISTRY:
        valid = ", ".join(name for name, _ in ROI_HEADS_REGISTRY)
        raise InputError(f"MODEL.ROI_HEADS.NAME is {heads!r}; valid: {valid}.")
    if ROI_HEADS_REGISTRY.get(heads).__module__.startswith(_detectron2.logger_name() + "."):
        raise InputError(
            f"MODEL.ROI_HEADS.NAME is {heads!r}, which ignores MODEL.ROI_BOX_HEAD.ACTIVATION; use LongTailROIHeads or "
            "LongTailCascadeROIHeads (the softmax and sigmoid activations are Detectron2's losses)."
        )


def check_numbers(cfg) -> None:
    """
    Raises:
        InputError: if a number is less than its minimum.
    """
    for key, minimum in _MINIMUM.items():
        value = get(cfg, key)
        if value < minimum:
            raise InputError(f"{key} is {value}; it must be {minimum} or more.")


def check_validation_images(cfg) -> None:
    """
    Raises:
        InputError: if validation losses or sample predictions are asked for, and not possible.
    """
    if cfg.TEST.SAMPLE_IMAGES > _MOST_SAMPLES:
        raise InputError(
            f"TEST.SAMPLE_IMAGES is {cfg.TEST.SAMPLE_IMAGES}; it must be at most {_MOST_SAMPLES}, as each is drawn and "
            "stored at every evaluation."
        )
    wanted = [key for key in ("LOSS_IMAGES", "SAMPLE_IMAGES") if cfg.TEST[key]]
    if wanted and cfg.MODEL.LOAD_PROPOSALS:
        raise InputError(
            f"TEST.{wanted[0]} is {cfg.TEST[wanted[0]]}, which can't be combined with precomputed proposals "
            "(MODEL.LOAD_PROPOSALS); set it to 0."
        )


def check_detections_per_category(cfg) -> None:
    """
    Raises:
        InputError: for a negative number.
    """
    if cfg.TEST.DETECTIONS_PER_CATEGORY < 0:
        raise InputError(
            f"TEST.DETECTIONS_PER_CATEGORY is {cfg.TEST.DETECTIONS_PER_CATEGORY}; it must be 0, for all, or more."
        )


def check_lazy_parts(cfg, evaluation_only: bool) -> None:
    """
    Build what a LazyConfig declares, apart from the datasets: Python code can fail anywhere.

    Args:
        cfg: a config that was made from a LazyConfig.
        evaluation_only: whether nothing will be trained.

    Raises:
        InputError: if a part can't be built, as an argument is invalid or a package is missing.
    """
    if not evaluation_only:
        lazy = lazy_config(cfg)
        check_training_values(lazy, predictor_names(lazy))
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = cfg.MODEL.ROI_HEADS.NUM_CLASSES or 1  # 0: inferred from the dataset later
    model = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg)
    build_mapper(cfg, False)
    if not evaluation_only:
        for part in cfg.MODEL.ACTIVATION_CHECKPOINTING:
            if not checkpoint_activations(model, (part,)):
                option = checkpointing_option(lazy)
                remedy = f"remove it, and set {option}" if option else "remove it"
                raise InputError(
                    f"MODEL.ACTIVATION_CHECKPOINTING has {part!r}, but the {part} of the LazyConfig has no residual "
                    f"blocks of Detectron2's ResNets that are trained; {remedy}."
                )
        build_schedule(cfg, build_optimizer(cfg, model))
        build_mapper(cfg, True)


# In the order in which errors are reported.
CHECKS = (
    check_device,
    check_activation,
    check_calibration,
    check_optimizer,
    check_speed,
    lambda cfg: check_sampler(cfg.DATALOADER.SAMPLER_TRAIN),
    lambda cfg: check_backend(cfg.TEST.LVIS_BACKEND),
    check_architecture,
    check_roi_heads,
    check_detections_per_category,
)
TRAINING_CHECKS = (
    check_numbers,
    check_sampler_keys,
    check_copy_paste,
    check_schedule,
    check_clipping,
    check_ema,
    check_second_stage,
    check_validation_images,
    check_wandb,
)
