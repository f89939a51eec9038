"""Configuration of image classification: keys with their defaults, and loading of config files."""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Iterable

import torch
from yacs.config import CfgNode as CN

from ..activations import activation_class, activation_names
from ..calibration import calibration_class, calibration_names
from ..config_files.keys import get
from ..config_files.merging import merged_config
from ..config_files.options import add_options
from ..utils.errors import InputError
from ..utils.once import once
from .data import dataset_class, dataset_names
from .networks import NETWORKS

logger = logging.getLogger(__name__)


def load_config(config_file: str | os.PathLike = "", opts: Iterable = ()) -> CN:
    """
    Load a yaml file and command-line overrides into a full config.

    Args:
        config_file: path of a yaml file, or name of a config that comes with balanced_lvis, such as
            ``classification/characters/ldam``; empty for the defaults.
        opts: ``KEY VALUE`` pairs, flat; values are text, as on the command line, or Python values.

    Raises:
        InputError: as :func:`balanced_lvis.config_files.merging.merged_config`.
    """
    return merged_config(default_config, config_file, opts)


def default_config() -> CN:
    """All keys with their defaults."""
    cfg = CN()
    # Modules to import before keys are checked: they register activations and others from outside the package.
    cfg.IMPORTS = ()
    cfg.OUTPUT_DIR = "output/classification/run"
    cfg.SEED = 0  # of initial weights, batches and transforms, not of the dataset
    _add_data(cfg)
    _add_model(cfg)
    _add_solver(cfg)
    return cfg


def _add_data(cfg: CN) -> None:
    dataset = cfg.DATASET = CN()
    dataset.NAME = "characters"
    add_options(dataset, "dataset", {name: dataset_class(name) for name in dataset_names()})
    long_tail = dataset.LONG_TAIL = CN()
    long_tail.IMBALANCE = 100.0  # largest over smallest class count of the training subset; 0: all images
    long_tail.MAX_COUNT = 0  # images of the first class; 0: the mean count of a class
    long_tail.SEED = 0  # of the choice of images

    cfg.INPUT = CN()
    cfg.INPUT.PIXEL_MEAN = [128.0, 128.0, 128.0]  # RGB, 0 to 255
    cfg.INPUT.PIXEL_STD = [64.0, 64.0, 64.0]
    cfg.INPUT.TRANSFORMS = ()  # of training images, in this order: crop, flip, autoaugment, cutout

    cfg.DATALOADER = CN()
    cfg.DATALOADER.SAMPLER_TRAIN = "instance"  # or "class_balanced"
    cfg.DATALOADER.NUM_WORKERS = 0  # processes that load and transform images; batches don't depend on it


def _add_model(cfg: CN) -> None:
    model = cfg.MODEL = CN()
    model.DEVICE = "auto"  # a GPU if there is one
    model.WEIGHTS = ""  # checkpoint to start from, or to evaluate
    model.CHANNELS_LAST = True  # memory format of images and weights
    network = model.NETWORK = CN()
    network.NAME = "resnet32"
    add_options(network, "network", {name: NETWORKS.get(name) for name in NETWORKS})
    activation = model.ACTIVATION = CN()
    activation.NAME = "softmax"
    add_options(activation, "activation", {name: activation_class(name) for name in activation_names()})
    calibration = model.CALIBRATION = CN()
    calibration.NAME = ""  # correction of the test-time scores; "": none
    add_options(calibration, "calibration", {name: calibration_class(name) for name in calibration_names()})
    # The second stage: the network of MODEL.WEIGHTS is frozen, and only the classifier is trained.
    model.DECOUPLED = CN()
    model.DECOUPLED.ENABLED = False
    model.DECOUPLED.CLASSIFIER = "retrain"  # from scratch; "finetune": from the weights of the first stage


def _add_solver(cfg: CN) -> None:
    solver = cfg.SOLVER = CN()
    solver.MAX_ITER = 13000
    solver.IMS_PER_BATCH = 512
    solver.BASE_LR = 0.1
    solver.MOMENTUM = 0.9
    solver.WEIGHT_DECAY = 0.0005
    solver.LR_SCHEDULE = "cosine"  # or "steps"
    solver.STEPS = ()  # iterations at which the learning rate is multiplied by GAMMA
    solver.GAMMA = 0.1
    solver.WARMUP_ITERS = 800
    solver.WARMUP_FACTOR = 0.0  # of the learning rate at the start of the linear warm-up
    solver.CHECKPOINT_PERIOD = 1000
    solver.LOG_PERIOD = 20
    # The Meta Sampler (BALMS): learned sampling rates of classes, in the second stage.
    meta = solver.META = CN()
    meta.ENABLED = False
    meta.LR = 0.01  # Adam's learning rate for the parameters psi of the rates
    meta.INNER_LR = 0.0  # learning rate of the differentiable step of SGD; 0: the optimizer's current one
    meta.IMS_PER_BATCH = 0  # images of a class-balanced meta batch; 0: SOLVER.IMS_PER_BATCH

    cfg.TEST = CN()
    cfg.TEST.IMS_PER_BATCH = 500


def device_of(cfg: CN) -> torch.device:
    """
    The device that ``MODEL.DEVICE`` names.

    Raises:
        InputError: if it is another device than the CPU and the GPUs that torch finds.
    """
    name = str(cfg.MODEL.DEVICE)
    # torch wraps larger numbers to negative ones.
    if not re.fullmatch(r"auto|cpu|cuda(:(0|[1-9][0-9]?))?", name):
        raise InputError(f"MODEL.DEVICE is {name!r}; choose auto, cpu or cuda, or a GPU by its number, such as cuda:0.")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"MODEL.DEVICE is {name!r}, but torch finds no GPU; choose auto or cpu.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"MODEL.DEVICE is {name!r}, but the number of GPUs that torch finds is {torch.cuda.device_count()}; they "
            "are numbered from 0."
        )
    return device


_POSITIVE = (
    "SOLVER.MAX_ITER", "SOLVER.IMS_PER_BATCH", "SOLVER.BASE_LR", "SOLVER.CHECKPOINT_PERIOD", "SOLVER.LOG_PERIOD",
    "TEST.IMS_PER_BATCH",
)  # fmt: skip
_NOT_NEGATIVE = (
    "SEED", "SOLVER.MOMENTUM", "SOLVER.WEIGHT_DECAY", "SOLVER.WARMUP_ITERS", "SOLVER.WARMUP_FACTOR",
    "SOLVER.GAMMA", "SOLVER.META.LR", "SOLVER.META.INNER_LR", "SOLVER.META.IMS_PER_BATCH", "DATALOADER.NUM_WORKERS",
    "DATASET.LONG_TAIL.MAX_COUNT", "DATASET.LONG_TAIL.SEED",
)  # fmt: skip


# Keys of lists or tuples: the types of their elements, and words for them.
_ELEMENTS = {
    "INPUT.PIXEL_MEAN": ((int, float), "numbers"),
    "INPUT.PIXEL_STD": ((int, float), "numbers"),
    "INPUT.TRANSFORMS": ((str,), "names"),
    "SOLVER.STEPS": ((int,), "numbers of iterations"),
}
_SEEDS = 2**32  # of NumPy's legacy generator, which the published rule of long-tailed subsets uses


def check_config(cfg: CN) -> None:
    """
    Check values that no other part of the code checks before work starts.

    Raises:
        InputError: for a value that is out of range or of a wrong type.
    """
    for key, (types, words) in _ELEMENTS.items():
        values = get(cfg, key)
        if not isinstance(values, (list, tuple)):
            raise InputError(f"{key} is {values!r}; it must be a list of {words}.")
        if wrong := [value for value in values if not isinstance(value, types) or isinstance(value, bool)]:
            raise InputError(f"{key} is {values}; all of it must be {words}, unlike {wrong[0]!r}.")
    for key in (*_POSITIVE, *_NOT_NEGATIVE):
        value, positive = get(cfg, key), key in _POSITIVE
        if not (value > 0 if positive else value >= 0) or value == math.inf:
            raise InputError(f"{key} is {value}; it must be {'more than 0' if positive else '0 or more'}.")
    if cfg.DATASET.LONG_TAIL.SEED >= _SEEDS:
        raise InputError(f"DATASET.LONG_TAIL.SEED is {cfg.DATASET.LONG_TAIL.SEED}; it must be below {_SEEDS}.")
    if cfg.SOLVER.STEPS and cfg.SOLVER.LR_SCHEDULE == "cosine":
        raise InputError(
            f"SOLVER.STEPS is {cfg.SOLVER.STEPS}, but SOLVER.LR_SCHEDULE is 'cosine', which has no steps; set it to "
            "'steps', or empty SOLVER.STEPS."
        )
    for key in ("PIXEL_MEAN", "PIXEL_STD"):
        values = cfg.INPUT[key]
        if len(values) != 3 or not all(map(math.isfinite, values)) or (key == "PIXEL_STD" and min(values) <= 0):
            raise InputError(f"INPUT.{key} is {values}; it must be three numbers, above 0 for PIXEL_STD.")
    if cfg.MODEL.DECOUPLED.CLASSIFIER not in ("retrain", "finetune"):
        raise InputError(f"MODEL.DECOUPLED.CLASSIFIER is {cfg.MODEL.DECOUPLED.CLASSIFIER!r}; valid: retrain, finetune.")
    if cfg.MODEL.DECOUPLED.ENABLED and not cfg.MODEL.WEIGHTS:
        raise InputError("MODEL.DECOUPLED.ENABLED is True; set MODEL.WEIGHTS to the checkpoint of the first stage.")
    if cfg.SOLVER.META.ENABLED and not cfg.MODEL.DECOUPLED.ENABLED:
        raise InputError("SOLVER.META.ENABLED is True; the Meta Sampler needs MODEL.DECOUPLED.ENABLED True.")


def check_schedule(cfg: CN) -> None:
    """
    Check that training is long enough for its schedule. A warning is logged if the warm-up or a step is not before
    ``SOLVER.MAX_ITER``.

    Raises:
        InputError: if classes would never be re-weighted, although ``DRW_START`` is set.
    """
    solver = cfg.SOLVER
    start_key = f"MODEL.ACTIVATION.{cfg.MODEL.ACTIVATION.NAME.upper()}.DRW_START"
    start = cfg.MODEL.ACTIVATION.get(cfg.MODEL.ACTIVATION.NAME.upper(), {}).get("DRW_START", -1)
    if start >= solver.MAX_ITER:
        raise InputError(
            f"{start_key} is {start}, but SOLVER.MAX_ITER is {solver.MAX_ITER}: classes would never be re-weighted. "
            f"Lower {start_key}, such as to {solver.MAX_ITER * 4 // 5}, or set it to -1 for no weights."
        )
    if solver.WARMUP_ITERS >= solver.MAX_ITER:
        _warn_of_schedule("SOLVER.WARMUP_ITERS is", solver.WARMUP_ITERS, solver.MAX_ITER)
    if late := [step for step in solver.STEPS if step >= solver.MAX_ITER]:
        _warn_of_schedule("SOLVER.STEPS has a step at", late[0], solver.MAX_ITER)


@once
def _warn_of_schedule(what: str, iterations: int, end: int) -> None:
    logger.warning("%s %d, but training ends after SOLVER.MAX_ITER %d; lower it.", what, iterations, end)
