"""Detectron2's default trainer with LVIS evaluation."""

from __future__ import annotations

import contextlib
import logging
import os
import uuid
from typing import Any

from detectron2.engine import DefaultTrainer, SimpleTrainer
from detectron2.engine.hooks import EvalHook, PeriodicCheckpointer, PeriodicWriter
from detectron2.evaluation import DatasetEvaluator
from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.events import CommonMetricPrinter, TensorboardXWriter
from torch.nn.parallel import DistributedDataParallel

from ..data.loader import build_test_loader, build_train_loader
from ..data.training_prior import class_prior_from_config
from ..evaluation import LVISEvaluator, unpasted
from ..meta import MetaReweighter
from ..utils.errors import InputError
from ..utils.io import write_json
from ..utils.random_state import seed_all
from ..utils.storage import check_present, clear_errors
from ..utils.text import safe_file_name
from .broken_image_hooks import ListBrokenImages, ShareBrokenImages
from .checkpoints.checkpoint_folder import POINTER
from .checkpoints.identity import Identity, is_second_stage
from .checkpoints.saving import SaveHook
from .checkpoints.weights import load_first_stage
from .default_trainer import ddp_on_own_device, durable_checkpointer
from .ema import FOLDER, AverageHook, WeightAverage
from .meta_trainer import MetaTrainer
from .metrics_file import CloseHook, MetricsWriter, WriteHook, forget_after, set_aside
from .optimizer import build_optimizer, clip_norm
from .periodic_evaluation import ResumableEvalHook
from .processes.preemption import StopRequest
from .processes.watchdog import note
from .speed import apply_speed
from .step import AUTOCAST, StepTrainer

logger = logging.getLogger(__name__)


class Trainer(DefaultTrainer):
    """
    Trains, evaluates by the LVIS rules, and writes ``OUTPUT_DIR/results.json`` after every evaluation.

    A checkpoint holds, beside what Detectron2 saves, the position in the stream of training images, the run's seed, the
    class names and the kind of scores that the classifier is for, and the state of meta re-weighting.

    The random numbers of an iteration follow from the run's seed, the rank and the iteration's number. So nothing that
    happens in between, an evaluation or a restart, changes what a run computes.

    Args:
        cfg: the config.
        stop: what is to end the run early, with a checkpoint.
    """

    _trainer: Any
    iter: int

    def __init__(self, cfg, stop: StopRequest | None = None):
        self.stop = stop or StopRequest()
        with ddp_on_own_device(cfg.MODEL.DEVICE), durable_checkpointer(cfg):
            super().__init__(cfg)
        self.run_id = uuid.uuid4().hex  # tells its checkpoints from those of another run in the same folder
        self.identity = Identity.from_config(cfg)
        # First, as they are loaded in this order: another run's state is refused before it is taken over.
        self.checkpointer.checkpointables = {Identity.KEY: self.identity, **self.checkpointer.checkpointables}
        if self.average is not None:
            self.checkpointer.checkpointables[WeightAverage.KEY] = self.average
        self._trainer = _step_trainer(cfg, self.checkpointer.model, self._trainer)
        self.seed = cfg.SEED if cfg.SEED >= 0 else int(comm.shared_random_seed())

    def resume_or_load(self, resume=True):
        """
        As Detectron2's; a second stage that starts loads its first stage strictly.

        Raises:
            InputError: if a first stage's checkpoint doesn't fit, or one to resume from is another model's.
        """
        if is_second_stage(self.cfg) and not (resume and self.checkpointer.has_checkpoint()):
            load_first_stage(
                self.checkpointer.model, self.cfg.MODEL.WEIGHTS, self.identity, self.cfg.MODEL.TRUST_WEIGHTS
            )
        else:
            super().resume_or_load(resume)
        if comm.is_main_process():
            with clear_errors(self.cfg.OUTPUT_DIR):
                self._clear_up(resume)

    def _clear_up(self, resume: bool) -> None:
        """What is in the folder is of this run, up to where it starts, or is another's, and a warning is logged."""
        folder = self.cfg.OUTPUT_DIR
        if self.start_iter:
            forget_after(folder, self.start_iter - 1)
            return
        set_aside(folder)
        if not resume and os.path.exists(os.path.join(folder, POINTER)):
            logger.warning(
                "%s holds checkpoints of an earlier run, which this one will replace as it comes to their iterations; "
                "until its first checkpoint, --resume would go on with the earlier run.", folder,
            )  # fmt: skip

    def train(self):
        """As Detectron2's; the learned class weights are written to ``OUTPUT_DIR``."""
        try:
            with clear_errors(self.cfg.OUTPUT_DIR):
                results = super().train()
        finally:
            self._end_workers()
        if isinstance(self._trainer, MetaTrainer) and comm.is_main_process():
            self._trainer.save_class_weights(self.cfg.OUTPUT_DIR)
        return results

    def _end_workers(self) -> None:
        """
        Let go of the loaders' iterators, which end their workers. What an error in evaluation leaves would else be
        ended by Python at its exit, with one signal, which such a worker doesn't heed (:mod:`.preemption`).
        """
        for name in ("_data_loader_iter_obj", "_meta_iter"):
            if getattr(self._trainer, name, None) is not None:
                setattr(self._trainer, name, None)

    def build_hooks(self):
        """
        Detectron2's, with :class:`.saving.SaveHook` in place of its periodic checkpoints, between what is to be on disk
        before a checkpoint and the evaluation that a checkpoint is saved for.
        """
        hooks = super().build_hooks()
        writers = [writer for hook in hooks if isinstance(hook, PeriodicWriter) for writer in hook._writers]
        hooks = [hook for hook in hooks if not isinstance(hook, (PeriodicCheckpointer, PeriodicWriter))]
        at = next(index for index, hook in enumerate(hooks) if isinstance(hook, EvalHook))
        saves = SaveHook(
            self.checkpointer, self.cfg.SOLVER.CHECKPOINT_PERIOD, self.stop, self.cfg.TEST.EVAL_PERIOD,
            before_save=self.data_loader.broken.share,
        )  # fmt: skip
        ema = self.cfg.MODEL.EMA
        self.average = WeightAverage(ema.DECAY) if ema.ENABLED else None
        averages = [] if self.average is None else [AverageHook(self.average, self.cfg.OUTPUT_DIR)]
        writes = WriteHook(writers, self.cfg.OUTPUT_DIR)
        evaluates = ResumableEvalHook(
            self.cfg.TEST.EVAL_PERIOD, self._evaluate, self.cfg.OUTPUT_DIR, writes.write_evaluation
        )
        broken = self.data_loader.broken
        shares = ShareBrokenImages(broken)
        lists = ListBrokenImages(broken, self.cfg.OUTPUT_DIR)
        return [
            *averages, *hooks[:at], writes, shares, saves, evaluates, *hooks[at + 1 :], CloseHook(writers), lists,
        ]  # fmt: skip

    def build_writers(self):
        """Detectron2's, with :class:`.metrics_file.MetricsWriter` in place of its ``JSONWriter``."""
        folder = self.cfg.OUTPUT_DIR
        os.makedirs(folder, exist_ok=True)
        return [CommonMetricPrinter(self.max_iter), MetricsWriter(folder), TensorboardXWriter(folder)]

    def _evaluate(self) -> dict:
        """Of the weights and, where there is one, of their average: under "ema", and in the folder of that name."""
        check_present(self.cfg.OUTPUT_DIR)
        results = self.test(self.cfg, self.model)
        if self.average is not None:
            cfg = self.cfg.clone()
            cfg.defrost()
            cfg.OUTPUT_DIR = os.path.join(cfg.OUTPUT_DIR, FOLDER)
            with self.average.applied(self.checkpointer.model):
                averaged = self.test(cfg, self.model)
            if comm.is_main_process():
                results = {**results, "ema": averaged}
        self._last_eval_results = results
        return results

    def run_step(self):
        seed_all(self.seed, comm.get_rank(), self.iter)
        super().run_step()

    def after_step(self):
        note(f"saving, evaluating or logging after iteration {self.iter}", slow=True)
        super().after_step()

    def after_train(self):
        """As Detectron2's, which counts an iteration that a run resumed at its end has not made."""
        self.iter = min(self.iter, max(self.start_iter, self.max_iter))
        super().after_train()

    def state_dict(self):
        """Detectron2's, the run's seed and the positions in the streams of images."""
        data = self.data_loader.state_dict(self.iter + 1 - self.start_iter)
        return {
            **super().state_dict(), "data": data, "seed": self.seed, "run": self.run_id, "job": self._job(),
            "broken_images": dict(self.data_loader.broken.found),
        }  # fmt: skip

    def _job(self) -> dict:
        """What an iteration is."""
        return {"images": self.cfg.SOLVER.IMS_PER_BATCH, "processes": comm.get_world_size()}

    def load_state_dict(self, state_dict):
        """
        Raises:
            InputError: if linear scaling gives iterations another meaning than they had.
        """
        before, now = state_dict.get("job", self._job()), self._job()
        if self.cfg.SOLVER.REFERENCE_WORLD_SIZE and before["images"] != now["images"]:
            raise InputError(
                f"--resume: the checkpoint's iterations are of {before['images']} images, those of this run of "
                f"{now['images']}, as SOLVER.REFERENCE_WORLD_SIZE scales the schedule to the number of processes. Go "
                f"on with {before['processes']} processes, or set SOLVER.REFERENCE_WORLD_SIZE 0 and the schedule of "
                f"{before['processes']} processes, which log.txt has."
            )
        super().load_state_dict(state_dict)
        self.seed = state_dict.get("seed", self.seed)
        self.run_id = state_dict.get("run", self.run_id)
        self.data_loader.load_state_dict(state_dict.get("data"))
        self.data_loader.broken.found.update(state_dict.get("broken_images", {}))

    @classmethod
    def build_train_loader(cls, cfg):
        """
        Returns:
            :class:`balanced_lvis.data.loader.TrainLoader`. A second stage needs no masks.
        """
        return build_train_loader(cfg, masks=not is_second_stage(cfg))

    @classmethod
    def build_test_loader(cls, cfg, dataset_name):
        """Detectron2's, which reads LVIS annotations from their index."""
        return build_test_loader(cfg, dataset_name)

    @classmethod
    def build_model(cls, cfg):
        """Detectron2's model; a line about it instead of its several hundred."""
        model = build_model(cfg)
        apply_speed(cfg, model)
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
            InputError: if the data set is not in LVIS format, or ``TEST.LVIS_BACKEND`` is unknown or not installed.
        """
        folder = os.path.join(cfg.OUTPUT_DIR, "inference")
        folder = folder if len(cfg.DATASETS.TEST) == 1 else f"{folder}_{safe_file_name(dataset_name)}"
        return LVISEvaluator(dataset_name, folder, backend=cfg.TEST.LVIS_BACKEND)

    @classmethod
    def test(cls, cfg, model, evaluators=None):
        """
        Evaluate on every data set of ``DATASETS.TEST``.

        Masks are not pasted into their images where all evaluators do without: :class:`LVISEvaluator` does.

        Returns:
            {"bbox": {metric: percent}, "segm": {...}}, or that by data set where there are several; also written to
            ``OUTPUT_DIR/results.json``.
        """
        if evaluators is None:
            evaluators = [cls.build_evaluator(cfg, name) for name in cfg.DATASETS.TEST]
        elif isinstance(evaluators, DatasetEvaluator):
            evaluators = [evaluators]
        takes_unpasted = all(isinstance(evaluator, LVISEvaluator) for evaluator in evaluators)
        boxed = unpasted(model) if takes_unpasted else contextlib.nullcontext(model)
        with boxed as detector, _every_batch_noted(model):
            results = super().test(cfg, detector, evaluators)
        if comm.is_main_process():
            path = os.path.join(cfg.OUTPUT_DIR, "results.json")
            write_json(path, results, indent=1)
            logger.info("Results written to %s", path)
        return results


@contextlib.contextmanager
def _every_batch_noted(model):
    """
    Evaluation as a whole may take any time; what is judged is a batch. The heads can be called without the model, and a
    compiled backbone would be compiled anew with a hook.
    """
    bare = model.module if isinstance(model, DistributedDataParallel) else model
    hook = getattr(bare, "roi_heads", bare).register_forward_pre_hook(lambda *_: note("evaluating", slow=True))
    try:
        yield
    finally:
        hook.remove()


def _step_trainer(cfg, rcnn, plain: SimpleTrainer) -> StepTrainer:
    """In place of the trainer that Detectron2 has made; ``rcnn`` is its model without DistributedDataParallel."""
    options = {
        "accumulate": cfg.SOLVER.ACCUMULATE_BATCHES,
        "autocast": AUTOCAST[cfg.SOLVER.AMP.DTYPE] if cfg.SOLVER.AMP.ENABLED else None,
        "max_skipped": cfg.SOLVER.MAX_SKIPPED_STEPS,
        "clip_norm": clip_norm(cfg.SOLVER),
        "folder": os.path.join(cfg.OUTPUT_DIR, "diagnostics"),
    }
    parts = plain.model, plain.data_loader, plain.optimizer
    node = cfg.SOLVER.META
    if not node.ENABLED:
        return StepTrainer(*parts, **options)
    return MetaTrainer(
        *parts,
        reweighter=MetaReweighter(rcnn.roi_heads.box_predictor.activation, node.LR, rcnn.device),
        prior=class_prior_from_config(cfg),
        inner_lr=node.INNER_LR,
        **options,
    )
