"""One run: from command-line arguments to a trained or evaluated model."""

from __future__ import annotations

import contextlib
import functools
import logging
import os

import torch
from detectron2.modeling import META_ARCH_REGISTRY, ROI_HEADS_REGISTRY
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import seed_all_rng

from .. import _detectron2
from ..activations import activation_class
from ..config import import_modules, load_config
from ..console.command_line import command_line, log_to_files
from ..data.config_datasets import prepare_datasets, resolve_num_classes
from ..data.dataset_files import check_datasets, check_num_classes, evaluation_file_of
from ..data.preflight import preflight
from ..data.samplers import check_sampler, check_sampler_keys
from ..data.training_prior import SAVED_PRIOR, class_prior_from_config
from ..evaluation.backends import check_backend
from ..modeling.box_predictor import activation_from_config
from ..modeling.decoupled import classifier_stage
from ..utils.errors import InputError
from ..utils.io import replacing
from ..utils.storage import check_writable, clear_errors
from .arguments import argument_parser
from .checkpoints.checkpoint_folder import newest_checkpoint
from .checkpoints.identity import Identity, is_second_stage
from .checkpoints.weights import check_weights, load_for_evaluation
from .ema import FOLDER, check_ema
from .evaluate_file import check_evaluates_file, evaluate_file
from .freed_memory import keep_freed_memory
from .optimizer import check_clipping, check_optimizer, scale_decay
from .processes.job import Job, find_job
from .processes.launch import launch
from .processes.linear_scaling import log_scaling, scale_linearly
from .processes.lock import only_job_in
from .processes.preemption import StopRequest
from .processes.watchdog import Limits
from .schedule import check_schedule
from .speed import check_speed
from .step import AUTOCAST
from .trainer import Trainer

logger = logging.getLogger(__name__)

EVALUATION = "evaluation"  # the folder of --eval-only, in OUTPUT_DIR


@command_line
def main(arguments: list[str] | None = None) -> None:
    """
    Train or evaluate, with Detectron2's own arguments.

    Args:
        arguments: the command line without the program's name; ``sys.argv`` where None.
    """
    args = argument_parser().parse_args(arguments)
    if not args.config_file and not args.opts:
        raise InputError("--config-file is missing: a yaml of configs/, such as configs/r50_balanced_sigmoid.yaml.")
    job = find_job(args)
    args.resume |= job.attempt > 0  # torchrun has started it anew after a failure
    cfg = read_config(args, job)
    if args.predictions:
        check_evaluates_file(args.eval_only, job.world_size)
        with only_job_in(cfg.OUTPUT_DIR):
            evaluate_file(cfg, args.predictions)
        return

    with contextlib.ExitStack() as stack:

        def prepare():
            if job.rank == 0:
                stack.enter_context(only_job_in(cfg.OUTPUT_DIR))
            check_writable(cfg.OUTPUT_DIR)
            log_to_files(cfg.OUTPUT_DIR, job.rank)
            check(cfg, args, job)

        launch(job, prepare, _run_in_process, (cfg, args), cfg.MODEL.DEVICE, Limits.from_config(cfg))


def read_config(args, job: Job | None = None):
    """
    The frozen config of a command line, on the CPU where there is no GPU, scaled to the job's processes.

    An evaluation writes to ``OUTPUT_DIR/evaluation``, so that in the folder of a training run it replaces none of its
    results, detections and logs.

    No data set is touched: processes that torchrun or SLURM has started have not met yet, and each would show the same
    error. So ``MODEL.ROI_HEADS.NUM_CLASSES`` may be 0, for as many as the data have, until :func:`check`.

    Args:
        args: parsed by :func:`.arguments.argument_parser`.
        job: None: as ``args`` and the environment tell.

    Raises:
        InputError: for what :func:`balanced_lvis.config.load_config` and
            :func:`.processes.linear_scaling.scale_linearly` refuse, and more GPUs than there are.
    """
    job = job or find_job(args)
    cfg = load_config(args.config_file, args.opts)
    # Evaluation needs all images, and no training image.
    cfg.DATASETS.ALLOW_MISSING = not args.eval_only and (cfg.DATASETS.ALLOW_MISSING or args.allow_missing)
    _choose_device(cfg, job)
    if not args.eval_only:
        scale_linearly(cfg, job.world_size)
    if args.eval_only:
        cfg.OUTPUT_DIR = os.path.join(cfg.OUTPUT_DIR, EVALUATION)
    if args.eval_only and not cfg.MODEL.CLASS_PRIOR.FILE:
        cfg.MODEL.CLASS_PRIOR.FILE = _saved_prior(cfg.MODEL.WEIGHTS)  # spares the training annotations
    cfg.freeze()
    return cfg


def _saved_prior(weights: str) -> str:
    """What training has left beside a checkpoint, or above the folder of averaged weights; empty if nothing."""
    folder = os.path.dirname(weights)
    folders = [folder, os.path.dirname(folder)] if os.path.basename(folder) == FOLDER else [folder]
    return next(filter(os.path.isfile, (os.path.join(each, SAVED_PRIOR) for each in folders)), "")


def check(cfg, args, job: Job | None = None) -> None:
    """
    Everything that can go wrong before work starts: activation, data sets, weights.

    Renders the rendered data set, fetches weights, and indexes and checks annotations where need be.

    Args:
        cfg: from :func:`read_config`; of which ``MODEL.ROI_HEADS.NUM_CLASSES`` is set where it is 0.
        args: parsed by :func:`.arguments.argument_parser`.
        job: None: as ``args`` and the environment tell.

    Raises:
        InputError: for anything that the user has to mend.
    """
    _check_names(cfg)
    if not args.eval_only:
        _check_training(cfg, (job or find_job(args)).world_size)
    _check_data(cfg, args.eval_only)
    activation_from_config(cfg)
    if args.eval_only or not (args.resume and newest_checkpoint(cfg.OUTPUT_DIR)):
        check_weights(cfg.MODEL.WEIGHTS, _purpose(cfg, args.eval_only))
    # Last, as it can take minutes the first time.
    preflight(
        () if args.eval_only else cfg.DATASETS.TRAIN,
        cfg.DATASETS.TEST,
        allow_missing=cfg.DATASETS.ALLOW_MISSING,
        filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
    )


def _purpose(cfg, eval_only: bool) -> str:
    """What weights are wanted for."""
    if eval_only:
        return "evaluation"
    return "second stage" if is_second_stage(cfg) else "training"


def _check_names(cfg) -> None:
    """What a config names, before data is rendered or counted."""
    activation_class(cfg.MODEL.ROI_BOX_HEAD.ACTIVATION.NAME)
    check_optimizer(cfg.SOLVER.OPTIMIZER)
    check_speed(cfg)
    check_sampler(cfg.DATALOADER.SAMPLER_TRAIN)
    check_backend(cfg.TEST.LVIS_BACKEND)
    architecture = cfg.MODEL.META_ARCHITECTURE
    if architecture not in META_ARCH_REGISTRY:
        valid = ", ".join(name for name, _ in META_ARCH_REGISTRY)
        raise InputError(f"MODEL.META_ARCHITECTURE is {architecture!r}; valid: {valid}.")
    heads = cfg.MODEL.ROI_HEADS.NAME
    if heads not in ROI_HEADS_REGISTRY:
        valid = ", ".join(name for name, _ in ROI_HEADS_REGISTRY)
        raise InputError(f"MODEL.ROI_HEADS.NAME is {heads!r}; valid: {valid}.")
    if ROI_HEADS_REGISTRY.get(heads).__module__.startswith(_detectron2.logger_name() + "."):
        raise InputError(
            f"MODEL.ROI_HEADS.NAME is {heads!r}, which ignores MODEL.ROI_BOX_HEAD.ACTIVATION; use LongTailROIHeads or "
            "LongTailCascadeROIHeads (activations softmax and sigmoid are Detectron2's own)."
        )


_LEAST = {
    "SOLVER.IMS_PER_BATCH": 1,
    "SOLVER.META.IMS_PER_BATCH": 0,  # 0 stands for the other
    "SOLVER.MAX_ITER": 1,
    "SOLVER.CHECKPOINT_PERIOD": 1,
    "SOLVER.ACCUMULATE_BATCHES": 1,
    "SOLVER.MAX_SKIPPED_STEPS": 0,
    "TEST.EVAL_PERIOD": 0,
    "DATALOADER.NUM_WORKERS": 0,
    "DATALOADER.MAX_BROKEN": 0,
}


def _check_numbers(cfg) -> None:
    for key, least in _LEAST.items():
        value = functools.reduce(getattr, key.split("."), cfg)
        if value < least:
            raise InputError(f"{key} is {value}; it must be {least} or more.")


def _check_training(cfg, world_size: int) -> None:
    _check_numbers(cfg)
    check_sampler_keys(cfg)
    meta = cfg.SOLVER.META
    batches = {"SOLVER.IMS_PER_BATCH": cfg.SOLVER.IMS_PER_BATCH}
    if meta.ENABLED:
        batches["SOLVER.META.IMS_PER_BATCH"] = meta.IMS_PER_BATCH
    _check_step(cfg.SOLVER, world_size, cfg.MODEL.DEVICE)
    check_schedule(cfg.SOLVER)
    check_clipping(cfg.SOLVER)
    check_ema(cfg)
    for key, value in batches.items():
        if value % world_size:
            raise InputError(
                f"{key} is {value}, which {world_size} processes can't share evenly; set it to a multiple of "
                f"{world_size}."
            )
    if is_second_stage(cfg):
        classifier_stage(cfg.MODEL.DECOUPLED.CLASSIFIER)
        scale_decay(cfg)
    elif meta.ENABLED:
        raise InputError(
            f"SOLVER.META.ENABLED is True, but MODEL.META_ARCHITECTURE is {cfg.MODEL.META_ARCHITECTURE!r}; "
            "class weights are learned in the second stage: use DecoupledRCNN, and MODEL.WEIGHTS of a first stage."
        )
    if meta.ENABLED and (meta.LR < 0 or meta.INNER_LR < 0):
        raise InputError(f"SOLVER.META: LR is {meta.LR} and INNER_LR {meta.INNER_LR}; neither can be negative.")


def _check_step(solver, world_size: int, device: str) -> None:
    """What a training step is asked to do."""
    parts = solver.ACCUMULATE_BATCHES
    if parts > 1 and solver.META.ENABLED:
        raise InputError(
            f"SOLVER.ACCUMULATE_BATCHES is {parts}, but class weights are learned from whole batches; set it to 1 "
            "where SOLVER.META.ENABLED is True. The second stage needs little memory."
        )
    if parts > 1 and solver.IMS_PER_BATCH % (parts * world_size):
        raise InputError(
            f"SOLVER.IMS_PER_BATCH is {solver.IMS_PER_BATCH}, which can't be split into SOLVER.ACCUMULATE_BATCHES "
            f"{parts} batches for {world_size} process(es); set it to a multiple of {parts * world_size}."
        )
    if solver.AMP.DTYPE not in AUTOCAST:
        raise InputError(f"SOLVER.AMP.DTYPE is {solver.AMP.DTYPE!r}; valid: {', '.join(AUTOCAST)}.")
    # Meta re-weighting computes gradients in float32 in any case.
    if solver.AMP.ENABLED and solver.AMP.DTYPE == "float16" and device == "cpu" and not solver.META.ENABLED:
        raise InputError("SOLVER.AMP.DTYPE is 'float16', which needs a GPU; use bfloat16 on the CPU.")


def _run_in_process(cfg, args) -> None:
    """Runs :func:`run` in a worker process, which has imported and registered nothing yet."""
    import_modules(cfg.IMPORTS)
    if comm.get_world_size() > 1:
        prepare_datasets(cfg)  # catalogs are each process's own
        resolve_num_classes(cfg)
    run(cfg, args)


def _with_clear_errors(function):
    """What can't be written is one message, whichever part of a run writes it."""

    @functools.wraps(function)
    def wrapped(cfg, args):
        with clear_errors(cfg.OUTPUT_DIR):
            return function(cfg, args)

    return wrapped


@_with_clear_errors
def run(cfg, args) -> dict:
    """
    Train or evaluate in one process of the job; :func:`check` has been called.

    Returns:
        the last evaluation's results, {"bbox": {...}, "segm": {...}} in percent; empty on other ranks than 0.
    """
    _start(cfg, evaluation=args.eval_only)
    log_scaling(load_config(args.config_file, args.opts), cfg)
    if args.eval_only:
        model = Trainer.build_model(cfg)
        load_for_evaluation(
            model, cfg.MODEL.WEIGHTS, Identity.from_config(cfg, evaluation=True), cfg.MODEL.TRUST_WEIGHTS
        )
        return Trainer.test(cfg, model) or {}
    with StopRequest() as stop:
        stop.at_once = True  # until the first iteration
        _save_class_prior(cfg)
        trainer = Trainer(cfg, stop)
        trainer.resume_or_load(resume=args.resume)
        trainer.train()
    return getattr(trainer, "_last_eval_results", {}) or {}


def _check_data(cfg, eval_only: bool) -> None:
    if not eval_only and not cfg.DATASETS.TRAIN:
        raise InputError("DATASETS.TRAIN is empty; name a data set to train on, or use --eval-only.")
    prepare_datasets(cfg)
    resolve_num_classes(cfg)
    names = _data_sets(cfg, eval_only)
    check_datasets(names)
    check_num_classes(names, cfg.MODEL.ROI_HEADS.NUM_CLASSES)
    for name in cfg.DATASETS.TEST:
        evaluation_file_of(name)


def _data_sets(cfg, eval_only: bool) -> tuple[str, ...]:
    return tuple(cfg.DATASETS.TEST) if eval_only else (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)


def _choose_device(cfg, job: Job) -> None:
    if not cfg.MODEL.DEVICE.startswith("cuda"):
        return
    if not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"  # Detectron2's default is cuda; the same command is to run anywhere
        return
    here = torch.cuda.device_count()
    if job.local_size > here and not (job.launcher == "slurm" and not job.children and here == 1):
        raise InputError(
            f"{job.local_size} processes are to share this machine's {here} GPU(s); start as many as there are or "
            "fewer (--num-gpus), or use MODEL.DEVICE cpu."
        )


def _start(cfg, evaluation: bool) -> None:
    """Loggers, a copy of the config and of the environment in the output folder, seeds."""
    rank = comm.get_rank()
    log_to_files(cfg.OUTPUT_DIR, rank)
    if comm.is_main_process():
        for name, content in (("config.yaml", cfg.dump()), ("environment.txt", collect_env_info())):
            with replacing(os.path.join(cfg.OUTPUT_DIR, name)) as file:
                file.write(content)
        logger.info("Config and environment saved in %s", cfg.OUTPUT_DIR)
    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED + rank)
    if not evaluation:
        torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
    keep_freed_memory(cfg.MODEL.DEVICE)


def _save_class_prior(cfg) -> None:
    """For evaluating the checkpoint where the training annotations are not at hand: MODEL.CLASS_PRIOR.FILE."""
    if comm.is_main_process() and activation_class(cfg.MODEL.ROI_BOX_HEAD.ACTIVATION.NAME).needs_prior:
        class_prior_from_config(cfg).save(os.path.join(cfg.OUTPUT_DIR, SAVED_PRIOR))
