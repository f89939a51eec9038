"""One run: read the config, check everything that can be checked, then train or evaluate."""

from __future__ import annotations

import logging
import os

import torch
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import seed_all_rng

from ..config import import_modules, load_config, thawed
from ..config.lazy import named_as_in_file, record_lazy
from ..config.loading import run_lazy
from ..console.command_line import log_to_files
from ..console.preemption import StopRequest
from ..data.annotations.class_names import check_num_classes
from ..data.config_datasets import prepare_datasets, resolve_num_classes
from ..data.dataset_files import check_datasets
from ..data.dataset_records import choose_records
from ..data.preflight import preflight
from ..data.registered_files import evaluation_file_of
from ..modeling.box_predictor import check_classification
from ..modeling.decoupled import is_second_stage
from ..utils.errors import InputError
from ..utils.io import write_text
from ..utils.memory_allocator import keep_freed_memory
from ..utils.run_files import CONFIG, ENVIRONMENT, EVALUATION, LAZY_CONFIG
from ..utils.storage import clear_errors
from .checkpoints.checkpoint_folder import newest_checkpoint
from .checkpoints.identity import Identity
from .checkpoints.weights import check_weights, load_for_evaluation
from .config_checks import check_config
from .processes.job import Job, find_job
from .saved_prior import save_class_prior, saved_prior
from .schedule import log_scaling, scale_linearly
from .trainer import Trainer

logger = logging.getLogger(__name__)


def read_config(args, job: Job | None = None):
    """
    Read the frozen config of a command line, scaled to the number of processes, on the CPU if there is no GPU.

    An evaluation writes to ``OUTPUT_DIR/evaluation``, so that it doesn't overwrite the results, detections and logs of
    a training run.

    No dataset is read: processes started by torchrun or SLURM have not met yet, and each would report the same error.
    ``MODEL.ROI_HEADS.NUM_CLASSES`` may therefore be 0 (inferred from the dataset) until :func:`check`.

    Args:
        args: from :func:`balanced_lvis.commands.train.argument_parser`.
        job: the job; None to find it by ``args`` and the environment.

    Raises:
        InputError: if the config is invalid or can't be scaled, or there are fewer GPUs than processes.
    """
    job = job or find_job(args)
    cfg = _given_config(args)
    # Evaluation needs all images, and no training image.
    cfg.DATASETS.ALLOW_MISSING = not args.eval_only and (cfg.DATASETS.ALLOW_MISSING or args.allow_missing)
    _choose_device(cfg, job)
    if args.eval_only:
        cfg.OUTPUT_DIR = os.path.join(cfg.OUTPUT_DIR, EVALUATION)
        if not cfg.MODEL.CLASS_PRIOR.FILE:
            cfg.MODEL.CLASS_PRIOR.FILE = saved_prior(cfg.MODEL.WEIGHTS)  # for a calibration
    else:
        scale_linearly(cfg, job.world_size)
    cfg.freeze()
    return cfg


def check(cfg, args, job: Job | None = None) -> None:
    """
    Check everything that can go wrong before work starts: settings, datasets, weights.

    Renders the rendered dataset, downloads weights, and indexes and checks annotations if necessary. Sets
    ``MODEL.ROI_HEADS.NUM_CLASSES`` if it is 0.

    Args:
        cfg: from :func:`read_config`.
        args: from :func:`balanced_lvis.commands.train.argument_parser`.
        job: the job; None to find it by ``args`` and the environment.

    Raises:
        InputError: if the config, a dataset or the weights are invalid.
    """
    with named_as_in_file(cfg):
        check_config(cfg, (job or find_job(args)).world_size, args.eval_only)
        _check_datasets(cfg, args.eval_only)
        check_classification(cfg, training=not args.eval_only)
        if args.eval_only or not (args.resume and newest_checkpoint(cfg.OUTPUT_DIR)):
            check_weights(cfg.MODEL.WEIGHTS, _purpose(cfg, args.eval_only))
        # Last, because it can take minutes the first time.
        preflight(
            () if args.eval_only else cfg.DATASETS.TRAIN,
            cfg.DATASETS.TEST,
            allow_missing=cfg.DATASETS.ALLOW_MISSING,
            filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
        )
        if not args.eval_only:
            _check_validation_annotations(cfg)


def prepare_worker(cfg) -> None:
    """Import and register what a config needs, in a process of the job that has imported and registered nothing yet."""
    import_modules(cfg.IMPORTS)
    run_lazy(cfg)
    if comm.get_world_size() > 1:
        prepare_datasets(cfg)  # each process has its own catalogs
        resolve_num_classes(cfg)


def run_in_worker(cfg, args) -> None:
    """Call :func:`run` in a process of the job, after :func:`prepare_worker`."""
    prepare_worker(cfg)
    run(cfg, args)


def run(cfg, args) -> dict:
    """
    Train or evaluate in one process of the job, after :func:`check`.

    Returns:
        the results of the last evaluation, {"bbox": {...}, "segm": {...}} in percent; empty on other ranks than 0.
    """
    with clear_errors(cfg.OUTPUT_DIR):
        _start(cfg, args.eval_only)
        log_scaling(_given_config(args), cfg)
        return _evaluate(cfg) if args.eval_only else _train(cfg, args.resume)


def _given_config(args):
    """The config before it is adapted to the job: ``args.cfg`` of the Python API, or that of the command line."""
    cfg = getattr(args, "cfg", None)
    return load_config(args.config_file, args.opts) if cfg is None else thawed(cfg)


def _evaluate(cfg) -> dict:
    model = Trainer.build_model(cfg)
    load_for_evaluation(model, cfg.MODEL.WEIGHTS, Identity.from_config(cfg, evaluation=True), cfg.MODEL.TRUST_WEIGHTS)
    return Trainer.test(cfg, model) or {}


def _train(cfg, resume: bool) -> dict:
    with StopRequest() as stop:
        stop.at_once = True  # until the first iteration
        if comm.is_main_process():
            save_class_prior(cfg)
        trainer = Trainer(cfg, stop)
        trainer.resume_or_load(resume=resume)
        trainer.train()
    return trainer.results


def _choose_device(cfg, job: Job) -> None:
    if not cfg.MODEL.DEVICE.startswith("cuda"):
        return
    if not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"  # "cuda" is Detectron2's default; the same command runs on any machine
        return
    here = torch.cuda.device_count()
    if job.local_size > here and not (job.launcher == "slurm" and not job.children and here == 1):
        raise InputError(
            f"{job.local_size} processes can't share the {here} GPU(s) of this machine; start at most one process per "
            "GPU (--num-gpus), or use MODEL.DEVICE cpu."
        )


def _check_datasets(cfg, eval_only: bool) -> None:
    if not eval_only and not cfg.DATASETS.TRAIN:
        raise InputError("DATASETS.TRAIN is empty; name a dataset to train on, or use --eval-only.")
    prepare_datasets(cfg)
    resolve_num_classes(cfg)
    names = tuple(cfg.DATASETS.TEST) if eval_only else (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
    check_datasets(names)
    check_num_classes(names, cfg.MODEL.ROI_HEADS.NUM_CLASSES)
    for name in cfg.DATASETS.TEST:
        evaluation_file_of(name)


def _check_validation_annotations(cfg) -> None:
    """Validation losses and samples need annotations, which test sets may not have."""
    wanted = [key for key in ("LOSS_IMAGES", "SAMPLE_IMAGES") if cfg.TEST[key]]
    for name in cfg.DATASETS.TEST if wanted else ():
        try:
            choose_records(name, 1)
        except InputError as error:
            raise InputError(f"TEST.{wanted[0]} is {cfg.TEST[wanted[0]]}, but {error} Or set it to 0.") from error


def _purpose(cfg, eval_only: bool) -> str:
    """The purpose for which weights are loaded."""
    if eval_only:
        return "evaluation"
    return "second stage" if is_second_stage(cfg) else "training"


def _start(cfg, eval_only: bool) -> None:
    """Start logging, save the config and the environment to ``OUTPUT_DIR``, and set seeds."""
    rank = comm.get_rank()
    log_to_files(cfg.OUTPUT_DIR, rank)
    if comm.is_main_process():
        for name, content in ((CONFIG, cfg.dump()), (ENVIRONMENT, collect_env_info())):
            write_text(os.path.join(cfg.OUTPUT_DIR, name), content)
        record_lazy(cfg, os.path.join(cfg.OUTPUT_DIR, LAZY_CONFIG))
        logger.info("Config and environment saved in %s", cfg.OUTPUT_DIR)
    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED + rank)
    if not eval_only:
        torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
    keep_freed_memory(cfg.MODEL.DEVICE)
