"""The training loop: Detectron2's ``TrainerBase`` with hooks, checkpoints and LVIS evaluation."""

from __future__ import annotations

import contextlib
import logging
import os
import uuid
import weakref
from collections.abc import Callable

import torch
from detectron2.engine.defaults import verify_results
from detectron2.engine.hooks import IterationTimer, LRScheduler, PreciseBN
from detectron2.engine.train_loop import HookBase, TrainerBase
from detectron2.evaluation import DatasetEvaluator, inference_on_dataset, print_csv_format
from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.events import CommonMetricPrinter, EventWriter, TensorboardXWriter
from fvcore.nn.precise_bn import get_bn_modules
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..console.preemption import StopRequest
from ..data.loader import build_test_loader, build_train_loader
from ..evaluation import LVISEvaluator, unpasted
from ..modeling.box_predictor import prepare_losses
from ..modeling.decoupled import is_second_stage
from ..utils.errors import InputError
from ..utils.io import write_json
from ..utils.random_state import seed_all
from ..utils.run_files import EMA, INFERENCE, LAST_CHECKPOINT, RESULTS
from ..utils.storage import check_present, clear_errors
from ..utils.text import safe_file_name
from .checkpoints.identity import Identity
from .checkpoints.saving import DurableSaves, SaveHook
from .checkpoints.weights import load_first_stage
from .ema import WeightAverage
from .hooks import AverageHook, BrokenImagesHook, BrokenImagesReportHook, EvaluationHook, MetricsHook, WritersHook
from .metrics_file import MetricsWriter, forget_after, set_aside
from .optimizer import build_optimizer
from .processes.watchdog import note
from .sample_images import SampleImages
from .schedule import build_schedule, scaled_linearly
from .speed import apply_speed
from .step import without_ddp
from .step_builder import build_step, step_class
from .validation_losses import ValidationLosses
from .wandb_writer import WandbWriter

logger = logging.getLogger(__name__)


class Trainer(TrainerBase):
    """
    Trains a model, evaluates it by the LVIS protocol, and writes ``OUTPUT_DIR/results.json`` after every evaluation.

    In addition to what Detectron2 saves, a checkpoint holds the position in the stream of training images, the seed of
    the run, the class names, the kind of scores that the classifier was trained for, and the state of the step.

    The random numbers of an iteration depend only on the seed, the rank and the number of the iteration. Evaluations
    and restarts don't change the results of a run.

    Args:
        cfg: the config.
        stop: request to end the run early with a checkpoint.

    Attributes:
        model: the model; wrapped in ``DistributedDataParallel`` if there are several processes.
        step: makes the updates, a :class:`balanced_lvis.engine.step.TrainingStep`.
        results: of the last evaluation, {"bbox": {metric: percent}, "segm": {...}}; empty on other ranks than 0.
    """

    iter: int  # the base class has no annotations

    def __init__(self, cfg, stop: StopRequest | None = None):
        super().__init__()
        self.cfg = cfg = scaled_linearly(cfg, comm.get_world_size())
        self.stop = stop or StopRequest()
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.results: dict = {}
        self.run_id = uuid.uuid4().hex  # distinguishes its checkpoints from those of other runs in the same folder
        self._is_started = False

        # Builders draw random numbers: their order is part of what a seed means.
        model = self.build_model(cfg)
        prepare_losses(model)
        self.optimizer = self.build_optimizer(cfg, model)
        self.data_loader = self.build_train_loader(cfg)
        self.model = _data_parallel(model, cfg.MODEL.DEVICE)
        self.scheduler = self.build_lr_scheduler(cfg, self.optimizer)
        self.step = build_step(cfg, self.model, self.data_loader, self.optimizer)
        self.average = WeightAverage(cfg.MODEL.EMA.DECAY) if cfg.MODEL.EMA.ENABLED else None
        self.identity = Identity.from_config(cfg)
        self.checkpointer = self._build_checkpointer()
        self.register_hooks(self.build_hooks())
        self.seed = cfg.SEED if cfg.SEED >= 0 else int(comm.shared_random_seed())

    def _build_checkpointer(self) -> DurableSaves:
        # Loaded in this order: the identity is first, so that another model's checkpoint is refused before it is used.
        parts = {Identity.KEY: self.identity, "trainer": weakref.proxy(self)}
        if self.average is not None:
            parts[WeightAverage.KEY] = self.average
        return DurableSaves(self.model, self.cfg.OUTPUT_DIR, trust=self.cfg.MODEL.TRUST_WEIGHTS, **parts)

    def build_hooks(self) -> list[HookBase]:
        """
        The hooks in the order in which they are called.

        Metrics and the averaged weights are written before a checkpoint, and an evaluation follows its checkpoint.
        """
        cfg, broken = self.cfg, self.data_loader.broken
        writers = self.build_writers() if comm.is_main_process() else []
        metrics = MetricsHook(writers, cfg.OUTPUT_DIR)
        hooks = [
            AverageHook(self.average, cfg.OUTPUT_DIR) if self.average is not None else None,
            IterationTimer(),
            LRScheduler(),
            self._build_precise_bn(),
            metrics,
            BrokenImagesHook(broken),
            SaveHook(
                self.checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD, self.stop, cfg.TEST.EVAL_PERIOD,
                before_save=broken.share,
            ),
            EvaluationHook(
                cfg.TEST.EVAL_PERIOD, cfg.OUTPUT_DIR, metrics.write_evaluation, self._with_evaluations()
            ),
            WritersHook(writers),
            BrokenImagesReportHook(broken, cfg.OUTPUT_DIR),
        ]  # fmt: skip
        return [hook for hook in hooks if hook is not None]

    def _with_evaluations(self) -> list[Callable[[], dict[str, float] | None]]:
        """What is done at each evaluation besides it."""
        test = self.cfg.TEST
        wanted: list[Callable[[], dict[str, float] | None]] = []
        if test.LOSS_IMAGES:
            wanted.append(ValidationLosses(self.cfg, self.step))
        if test.SAMPLE_IMAGES:
            wanted.append(SampleImages(self.cfg, self.model))
        return wanted

    def _build_precise_bn(self) -> PreciseBN | None:
        if not self.cfg.TEST.PRECISE_BN.ENABLED or not get_bn_modules(self.model):
            return None
        cfg = self.cfg.clone()
        cfg.defrost()
        cfg.DATALOADER.NUM_WORKERS = 0
        loader = self.build_train_loader(cfg)  # separate: it doesn't advance the training images
        return PreciseBN(cfg.TEST.EVAL_PERIOD, self.model, loader, cfg.TEST.PRECISE_BN.NUM_ITER)

    def build_writers(self) -> list[EventWriter]:
        """
        Detectron2's writers, with :class:`.metrics_file.MetricsWriter` in place of its ``JSONWriter``, and that of
        Weights & Biases if the config asks for it.
        """
        folder = self.cfg.OUTPUT_DIR
        os.makedirs(folder, exist_ok=True)
        wandb = [WandbWriter(self.cfg, lambda: self.run_id)] if self.cfg.WANDB.PROJECT else []
        return [CommonMetricPrinter(self.max_iter), MetricsWriter(folder), *wandb, TensorboardXWriter(folder)]

    def resume_or_load(self, resume: bool = True) -> None:
        """
        Load the newest checkpoint in ``OUTPUT_DIR`` if ``resume`` and there is one, and otherwise ``MODEL.WEIGHTS``.

        A second stage loads its first stage strictly.

        Raises:
            InputError: if the checkpoint of a first stage doesn't fit, or the newest checkpoint is another model's.
        """
        resumes = resume and self.checkpointer.has_checkpoint()
        weights, trust = self.cfg.MODEL.WEIGHTS, self.cfg.MODEL.TRUST_WEIGHTS
        if is_second_stage(self.cfg) and not resumes:
            load_first_stage(self.checkpointer.model, weights, self.identity, trust)
        else:
            self.checkpointer.resume_or_load(weights, resume=resume)
            if resumes:
                self.start_iter = self.iter + 1  # the checkpoint has the number of the last finished iteration
        if comm.is_main_process():
            with clear_errors(self.cfg.OUTPUT_DIR):
                self._clear_up(resume)

    def _clear_up(self, resume: bool) -> None:
        """Remove the metrics of iterations that will be repeated; set those of another run aside, with a warning."""
        folder = self.cfg.OUTPUT_DIR
        if self.start_iter:
            forget_after(folder, self.start_iter - 1)
            return
        set_aside(folder)
        if not resume and os.path.exists(os.path.join(folder, LAST_CHECKPOINT)):
            logger.warning(
                "%s holds checkpoints of an earlier run, which this run overwrites when it reaches their iterations. "
                "Until its first checkpoint, --resume would continue the earlier run.", folder,
            )  # fmt: skip

    def train(self) -> dict | None:
        """
        Train from ``start_iter`` to ``max_iter``, and write what the step has learned to ``OUTPUT_DIR``.

        Returns:
            the results of the last evaluation if ``TEST.EXPECTED_RESULTS`` are given, on rank 0; None otherwise.
        """
        results = None
        try:
            with clear_errors(self.cfg.OUTPUT_DIR):
                super().train(self.start_iter, self.max_iter)
                if self.cfg.TEST.EXPECTED_RESULTS and comm.is_main_process():
                    verify_results(self.cfg, self.results)
                    results = self.results
        finally:
            # Python ends the remaining workers at exit by a signal that they ignore (see
            # :mod:`balanced_lvis.console.preemption`).
            self.step.close()
        if comm.is_main_process():
            self.step.save_results(self.cfg.OUTPUT_DIR)
        return results

    @property
    def is_complete(self) -> bool:
        """Whether training has ended without an error; for hooks, in ``after_train``."""
        return self._is_started and self.iter >= self.max_iter

    def before_train(self):
        super().before_train()
        self._is_started = True

    def run_step(self):
        seed_all(self.seed, comm.get_rank(), self.iter)
        self.step.iter = self.iter
        self.step.run_step()

    def after_step(self):
        note(f"saving, evaluating or logging after iteration {self.iter}", slow=True)
        super().after_step()

    def after_train(self):
        # ``TrainerBase`` counts one iteration too many if a run is resumed at its end.
        self.iter = min(self.iter, max(self.start_iter, self.max_iter))
        super().after_train()

    def evaluate(self) -> dict:
        """
        Evaluate the model on ``DATASETS.TEST``.

        Averaged weights are evaluated too, if there are any: their results are under "ema", and in the folder of the
        same name.
        """
        check_present(self.cfg.OUTPUT_DIR)
        results = self.test(self.cfg, self.model)
        if self.average is not None:
            cfg = self.cfg.clone()
            cfg.defrost()
            cfg.OUTPUT_DIR = os.path.join(cfg.OUTPUT_DIR, EMA)
            with self.average.applied(self.checkpointer.model):
                averaged = self.test(cfg, self.model)
            if comm.is_main_process():
                results = {**results, "ema": averaged}
        self.results = results
        return results

    def state_dict(self) -> dict:
        """The state for a checkpoint: of hooks, of the step, of the data loader and of the run."""
        data = self.data_loader.state_dict(self.iter + 1 - self.start_iter)
        return {
            **super().state_dict(), "_trainer": self.step.state_dict(), "data": data, "seed": self.seed,
            "run": self.run_id, "job": self._job(), "broken_images": dict(self.data_loader.broken.found),
        }  # fmt: skip

    def _job(self) -> dict:
        """The settings that define an iteration."""
        return {"images": self.cfg.SOLVER.IMS_PER_BATCH, "processes": comm.get_world_size()}

    def load_state_dict(self, state_dict: dict) -> None:
        """
        Restore what :meth:`state_dict` returned.

        Raises:
            InputError: if linear scaling has changed the number of images per iteration.
        """
        before, now = state_dict.get("job", self._job()), self._job()
        if self.cfg.SOLVER.REFERENCE_WORLD_SIZE and before["images"] != now["images"]:
            raise InputError(
                f"--resume: the iterations of the checkpoint have {before['images']} images, those of this run "
                f"{now['images']}, because SOLVER.REFERENCE_WORLD_SIZE scales the schedule to the number of processes. "
                f"Continue with {before['processes']} processes, or set SOLVER.REFERENCE_WORLD_SIZE 0 and the schedule "
                f"for {before['processes']} processes, which is in log.txt."
            )
        super().load_state_dict(state_dict)
        self.step.load_state_dict(state_dict["_trainer"])
        self.seed = state_dict.get("seed", self.seed)
        self.run_id = state_dict.get("run", self.run_id)
        self.data_loader.load_state_dict(state_dict.get("data"))
        self.data_loader.broken.found.update(state_dict.get("broken_images", {}))

    @classmethod
    def build_model(cls, cfg) -> nn.Module:
        """Build Detectron2's model with the config's speed settings."""
        model = build_model(cfg)
        apply_speed(cfg, model)
        parameters = sum(p.numel() for p in model.parameters())
        logger.info(
            "%s with %.1f M parameters, %d classes, on %s",
            cfg.MODEL.META_ARCHITECTURE, parameters / 1e6, cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.MODEL.DEVICE,
        )  # fmt: skip
        return model

    @classmethod
    def build_optimizer(cls, cfg, model) -> torch.optim.Optimizer:
        """
        Build the optimizer ``SOLVER.OPTIMIZER``.

        Raises:
            InputError: for an unknown ``SOLVER.OPTIMIZER``.
        """
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg, optimizer):
        """Build the scheduler ``SOLVER.LR_SCHEDULER_NAME``."""
        return build_schedule(cfg, optimizer)

    @classmethod
    def build_train_loader(cls, cfg):
        """
        Build the loader of ``DATASETS.TRAIN``. A second stage loads no masks.

        Returns:
            a :class:`balanced_lvis.data.loader.TrainLoader`.
        """
        balanced = step_class(cfg).class_balanced_images(cfg)
        return build_train_loader(cfg, masks=not is_second_stage(cfg), class_balanced_images=balanced)

    @classmethod
    def build_test_loader(cls, cfg, dataset_name: str):
        """Build Detectron2's test loader; LVIS annotations are read from their index."""
        return build_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(cls, cfg, dataset_name: str) -> DatasetEvaluator:
        """
        Build the evaluator of a dataset.

        Raises:
            InputError: if the dataset is not in LVIS format, or ``TEST.LVIS_BACKEND`` is unknown or not installed.
        """
        folder = os.path.join(cfg.OUTPUT_DIR, INFERENCE)
        folder = folder if len(cfg.DATASETS.TEST) == 1 else f"{folder}_{safe_file_name(dataset_name)}"
        return LVISEvaluator(
            dataset_name, folder, backend=cfg.TEST.LVIS_BACKEND, per_category=cfg.TEST.DETECTIONS_PER_CATEGORY
        )

    @classmethod
    def test(cls, cfg, model, evaluators=None) -> dict:
        """
        Evaluate a model on every dataset of ``DATASETS.TEST``.

        Masks are not pasted into their images if all evaluators are :class:`LVISEvaluator`, which doesn't need it.

        Args:
            cfg: the config.
            model: the model with its weights.
            evaluators: one evaluator per dataset; None for :meth:`build_evaluator`.

        Returns:
            {"bbox": {metric: percent}, "segm": {...}}, or these by name of the dataset if there are several; also
            written to ``OUTPUT_DIR/results.json``.
        """
        names = cfg.DATASETS.TEST
        if evaluators is None:
            evaluators = [cls.build_evaluator(cfg, name) for name in names]
        elif isinstance(evaluators, DatasetEvaluator):
            evaluators = [evaluators]
        if len(evaluators) != len(names):
            raise InputError(f"{len(evaluators)} evaluators for {len(names)} datasets of DATASETS.TEST; pass one each.")
        takes_unpasted = all(isinstance(evaluator, LVISEvaluator) for evaluator in evaluators)
        boxed = unpasted(model) if takes_unpasted else contextlib.nullcontext(model)
        with boxed as detector, _every_batch_noted(model):
            found = {name: cls._test_on(cfg, detector, name, one) for name, one in zip(names, evaluators)}
        results = next(iter(found.values())) if len(found) == 1 else found
        if comm.is_main_process():
            path = os.path.join(cfg.OUTPUT_DIR, RESULTS)
            write_json(path, results, indent=1)
            logger.info("Results written to %s", path)
        return results

    @classmethod
    def _test_on(cls, cfg, detector, name: str, evaluator: DatasetEvaluator) -> dict:
        results = inference_on_dataset(detector, cls.build_test_loader(cfg, name), evaluator)
        if comm.is_main_process():
            logger.info("Evaluation results for %s in csv format:", name)
            print_csv_format(results)
        return results


def _data_parallel(model: nn.Module, device: str) -> nn.Module:
    """
    Wrap a model in ``DistributedDataParallel`` if there are several processes.

    On a GPU, it is the current device: where SLURM shows each task only its own GPU, that is number 0 for all.
    """
    if comm.get_world_size() == 1:
        return model
    device_ids = [torch.cuda.current_device()] if device.startswith("cuda") else None
    return DistributedDataParallel(model, device_ids=device_ids, broadcast_buffers=False)


@contextlib.contextmanager
def _every_batch_noted(model):
    """
    Report every batch of an evaluation to the watchdog: the evaluation as a whole may take any time.

    The hook is on the RoI heads: a compiled backbone would be recompiled with a hook. The heads can be called without
    the model.
    """
    bare = without_ddp(model)
    hook = getattr(bare, "roi_heads", bare).register_forward_pre_hook(lambda *_: note("evaluating", slow=True))
    try:
        yield
    finally:
        hook.remove()
