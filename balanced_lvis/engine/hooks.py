"""Hooks of the training loop: averaged weights, metrics, evaluation, and the report of broken images."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
from collections.abc import Callable, Iterable, Sequence

import torch
from detectron2.engine import HookBase
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm
from detectron2.utils.events import CommonMetricPrinter, EventWriter

from ..data.images.broken_images import BrokenImages
from ..utils.io import replacing, write_json
from ..utils.run_files import EMA, FINAL_WEIGHTS, RESULTS
from ..utils.storage import check_present, clear_errors
from ..utils.text import one_line
from .ema import WeightAverage
from .metrics_file import MetricsWriter, has_evaluation
from .wandb_writer import WandbWriter

logger = logging.getLogger(__name__)

BROKEN_IMAGES = "broken_images.json"
PERIOD = 20  # iterations between two writes of metrics, as in Detectron2


class AverageHook(HookBase):
    """
    Averages the weights after every accepted update, and writes the average as a checkpoint after the last iteration.

    It must precede the hook that saves checkpoints. ``OUTPUT_DIR/ema/model_final.pth`` has the averaged weights in
    place of the model's, and can be evaluated, converted or trained on like any checkpoint.

    Args:
        average: the average to update.
        folder: ``OUTPUT_DIR``.
    """

    def __init__(self, average: WeightAverage, folder: str | os.PathLike):
        self.average = average
        self.folder = folder

    def before_train(self):
        self.average.start(self.trainer.checkpointer.model)

    def after_step(self):
        if self.trainer.step.accepted:
            self.average.update()
        if self.trainer.iter + 1 >= self.trainer.max_iter and comm.is_main_process():
            self._save()

    def _save(self) -> None:
        identity = self.trainer.identity
        content = {
            "model": self.average.weights,
            identity.KEY: identity.state_dict(),
            "iteration": self.trainer.iter,
        }
        check_present(self.folder)
        path = os.path.join(self.folder, EMA, FINAL_WEIGHTS)
        with replacing(path, "wb") as file:
            torch.save(content, file)
        logger.info("Averaged weights saved to %s", path)


class MetricsHook(HookBase):
    """
    Writes metrics every 20 iterations and after the last one.

    It must precede the hook that saves checkpoints: a run that is resumed from the checkpoint of an iteration has no
    metrics of that iteration.

    Args:
        writers: the writers of the run; :class:`WritersHook` closes them.
        folder: ``OUTPUT_DIR``.
    """

    def __init__(self, writers: list[EventWriter], folder: str | os.PathLike):
        self._writers = writers
        self._folder = folder

    def before_train(self):
        """
        Open ``metrics.json`` and Weights & Biases, so that an error is raised before training starts.

        Raises:
            StorageError: if a file can't be written.
            InputError: if Weights & Biases can't be used.
        """
        with clear_errors(self._folder):
            for writer in self._writers:
                if isinstance(writer, (MetricsWriter, WandbWriter)):
                    writer.open()

    def after_step(self):
        """
        Write the metrics if they are due.

        Raises:
            StorageError: if they can't be written, for example because the disk is full.
        """
        done = self.trainer.iter + 1
        if done % PERIOD and done != self.trainer.max_iter:
            return
        with clear_errors(self._folder):
            for writer in self._writers:
                writer.write()

    def write_evaluation(self, names: Iterable[str]) -> None:
        """
        Write the results of an evaluation.

        Args:
            names: names of the results in the storage.

        Raises:
            StorageError: if they can't be written.
        """
        with clear_errors(self._folder):
            for writer in self._writers:
                if isinstance(writer, MetricsWriter):
                    writer.write_only(names)
                elif not isinstance(writer, CommonMetricPrinter):
                    writer.write()


class EvaluationHook(HookBase):
    """
    Evaluates periodically and at the end of training, and records the results at once.

    If an evaluation was interrupted, the resumed run starts with it: an evaluation is due after the iteration of the
    checkpoint, and ``metrics.json`` has no results of it.

    All processes need this hook; rank 0 decides for all.

    Args:
        period: in iterations; 0 to evaluate only after the last one.
        folder: ``OUTPUT_DIR``.
        record: called with the names of the results once they are in the storage, if there are any.
        others: called at each evaluation in all processes; they return further results on rank 0, or None.
    """

    def __init__(
        self, period: int, folder: str | os.PathLike, record: Callable[[Iterable[str]], None] = lambda names: None,
        others: Sequence[Callable[[], dict[str, float] | None]] = (),
    ):  # fmt: skip
        self._period = period
        self._folder = folder
        self._record = record
        self._others = others

    def before_train(self):
        """Make the evaluation that was interrupted; its results are recorded at the last finished iteration."""
        done = self.trainer.start_iter
        if not 0 < done < self.trainer.max_iter or not self._is_due(done) or self._is_recorded(done - 1):
            return
        logger.info("metrics.json has no evaluation after iteration %d, where one was due; evaluating now.", done - 1)
        storage = self.trainer.storage
        storage.iter = done - 1
        try:
            self._evaluate()
        finally:
            storage.iter = done

    def after_step(self):
        done = self.trainer.iter + 1
        if self._is_due(done) and done != self.trainer.max_iter:  # the last one is made after training
            self._evaluate()

    def after_train(self):
        """Evaluate the trained model, unless training has failed."""
        if self.trainer.is_complete:
            self._evaluate()

    def _is_due(self, done: int) -> bool:
        return self._period > 0 and done % self._period == 0

    def _is_recorded(self, iteration: int) -> bool:
        return comm.all_gather(comm.is_main_process() and has_evaluation(self._folder, iteration))[0]

    def _evaluate(self) -> None:
        results = {name: float(value) for name, value in flatten_results_dict(self.trainer.evaluate() or {}).items()}
        for other in self._others:
            results.update(other() or {})
        self.trainer.storage.put_scalars(**results, smoothing_hint=False)
        comm.synchronize()  # processes may take different times
        if results:
            self._record(results)


class WritersHook(HookBase):
    """
    Closes the writers.

    Remaining metrics are written only at the end of training: a run that ends by an error will be resumed from a
    checkpoint, and would otherwise have one line more than an uninterrupted run.

    Args:
        writers: the writers of the run.
    """

    def __init__(self, writers: list[EventWriter]):
        self._writers = writers

    def after_train(self):
        for writer in self._writers:
            if self.trainer.is_complete:
                writer.write()
                writer.close()
            elif isinstance(writer, WandbWriter):
                # ``TrainerBase`` calls this while the error is handled.
                writer.close(getattr(sys.exc_info()[1], "exit_status", 1))
            else:
                with contextlib.suppress(OSError):  # the error that ends the run matters more
                    writer.close()


class BrokenImagesHook(HookBase):
    """
    Shares the broken images of all processes periodically, so that too many end the run early.

    Args:
        broken: the broken images that this process has found.
    """

    def __init__(self, broken: BrokenImages):
        self._broken = broken

    def after_step(self):
        if not (self.trainer.iter + 1) % PERIOD:
            self._broken.share()


class BrokenImagesReportHook(HookBase):
    """
    Reports broken images after training: in the log, in ``OUTPUT_DIR/broken_images.json``, and as a number in
    ``results.json`` under "training". It must follow the hook that evaluates.

    Args:
        broken: the broken images that this process has found.
        output_dir: ``OUTPUT_DIR``.
    """

    def __init__(self, broken: BrokenImages, output_dir: str):
        self._broken, self._output_dir = broken, output_dir

    def after_train(self):
        """Report also after an error, when other processes may have ended: without an exchange."""
        found = self._broken.found
        if not found or not comm.is_main_process() or not os.path.isdir(self._output_dir):
            return  # a folder that was deleted is not created again
        path = os.path.join(self._output_dir, BROKEN_IMAGES)
        write_json(path, [{"file_name": name, "reason": reason} for name, reason in sorted(found.items())], indent=1)
        listed = "; ".join(map(one_line, sorted(found)))
        logger.warning("%d broken image(s) were left out, listed in %s: %s", len(found), path, listed)
        self._count_in_results(len(found))

    def _count_in_results(self, count: int) -> None:
        path = os.path.join(self._output_dir, RESULTS)
        if not self.trainer.is_complete or not os.path.isfile(path):
            return  # the run has no results of its own
        with open(path, encoding="utf-8") as file:
            results = json.load(file)
        write_json(path, {**results, "training": {"broken_images": count}}, indent=1)
