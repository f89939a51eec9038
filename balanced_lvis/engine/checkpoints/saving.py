"""Periodic, atomic writing of checkpoints."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm

from ...console.preemption import StopRequest
from ...utils.errors import Preempted
from ...utils.io import replacing
from ...utils.run_files import FINAL_WEIGHTS, LAST_CHECKPOINT
from ...utils.storage import check_space, clear_errors
from ..ema import WeightAverage
from .checkpoint_folder import newest_checkpoint, remove_partial
from .checkpointer import Checkpointer

logger = logging.getLogger(__name__)


class DurableSaves(Checkpointer):
    """
    Checkpointer that writes atomically and resumes from the newest intact checkpoint.

    A checkpoint is written under a temporary name, flushed to disk and renamed, and ``last_checkpoint`` likewise.
    Whenever the process is killed, the previous checkpoint stays intact.
    """

    _found: str | None = None

    def save(self, name, **kwargs):
        """
        Raises:
            StorageError: if the checkpoint could not be written, such as on a full disk. Earlier files are unchanged.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        content = {"model": self.model.state_dict()}
        content.update({key: item.state_dict() for key, item in self.checkpointables.items()}, **kwargs)
        file_name = f"{name}.pth"
        path = os.path.join(self.save_dir, file_name)
        logger.info("Saving checkpoint to %s", path)
        with clear_errors(self.save_dir):
            with replacing(path, "wb", make_folder=False) as file:
                torch.save(content, file)
            self.tag_last_checkpoint(file_name)

    def save_as_final(self) -> None:
        """Copy the newest checkpoint to the final name, for a run that was killed between the two writes."""
        newest = self.get_checkpoint_file()
        final = os.path.join(self.save_dir, FINAL_WEIGHTS)
        if newest and os.path.basename(newest) != os.path.basename(final) and self.save_to_disk:
            with clear_errors(self.save_dir):
                with open(newest, "rb") as source, replacing(final, "wb", make_folder=False) as file:
                    shutil.copyfileobj(source, file)
                self.tag_last_checkpoint(os.path.basename(final))

    def tag_last_checkpoint(self, last_filename_basename):
        with replacing(os.path.join(self.save_dir, LAST_CHECKPOINT), make_folder=False) as file:
            file.write(last_filename_basename)
        self._found = None

    def has_checkpoint(self):
        return bool(self.get_checkpoint_file())

    def get_checkpoint_file(self):
        """
        Path of the newest intact checkpoint, empty if there is none. All processes must call this, and get the same.

        Raises:
            InputError: if no checkpoint is intact.
        """
        if self._found is None:
            found = newest_checkpoint(self.save_dir) if comm.is_main_process() else ""
            self._found = comm.all_gather(found)[0]
        return self._found


class SaveHook(HookBase):
    """
    Saves every ``period`` iterations, before evaluations, after the last iteration, and on a request to stop.

    All processes need it, as they agree on the iteration to stop after.

    Args:
        checkpointer: checkpointer of the run.
        period: number of iterations between checkpoints.
        stop: request to stop.
        evaluation_period: number of iterations between evaluations; 0 if only the last iteration is followed by one.
        before_save: called on all processes before each checkpoint. Rank 0 writes the checkpoint.
    """

    def __init__(
        self, checkpointer: DurableSaves, period: int, stop: StopRequest, evaluation_period: int = 0,
        before_save: Callable[[], None] = lambda: None,
    ):  # fmt: skip
        self.checkpointer = checkpointer
        self.before_save = before_save
        self.periods = [period, *([evaluation_period] if evaluation_period > 0 else [])]
        self.stop = stop

    def before_train(self):
        if comm.is_main_process():
            remove_partial(self.checkpointer.save_dir)
            averaged = WeightAverage.KEY in self.checkpointer.checkpointables
            check_space(
                self.checkpointer.save_dir, _bytes_of(self.checkpointer.model, self.trainer.optimizer, 1 + averaged)
            )
        if self.trainer.start_iter >= self.trainer.max_iter:
            self.checkpointer.save_as_final()

    def before_step(self):
        self.stop.at_once = False

    def after_step(self):
        """
        Raises:
            Preempted: after the checkpoint, if any process was requested to stop.
        """
        iteration = self.trainer.iter
        name = f"model_{iteration:07d}"
        stop = self.stop.is_wanted_anywhere()
        due = any((iteration + 1) % period == 0 for period in self.periods)
        last = iteration + 1 >= self.trainer.max_iter
        if due or last or stop:
            self.before_save()
        if due or (stop and not last):
            self.checkpointer.save(name, iteration=iteration)
        if last:
            self.checkpointer.save(FINAL_WEIGHTS.removesuffix(".pth"), iteration=iteration)
        if stop:
            comm.synchronize()  # a process that exits early would end the others while rank 0 saves
            logger.warning(
                "Asked to stop (%s): saved after iteration %d; --resume continues.", self.stop.signal_name, iteration
            )
            raise Preempted
        self.stop.at_once = due or last  # no progress is lost before the next step


def _bytes_of(model, optimizer, copies: int = 1) -> int:
    """Approximate size of a checkpoint: weights, their average, and the state of the optimizer."""
    kept = 1 if isinstance(optimizer, torch.optim.SGD) else 2  # momentum; two moments of AdamW
    trained = sum(p.numel() * p.element_size() for group in optimizer.param_groups for p in group["params"])
    return copies * sum(t.numel() * t.element_size() for t in model.state_dict().values()) + kept * trained
