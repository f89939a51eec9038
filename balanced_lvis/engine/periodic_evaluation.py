"""Evaluation on the way, of which a run that was ended in the middle of one lacks none when it goes on."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

from detectron2.engine.hooks import EvalHook
from detectron2.utils import comm

from .metrics import has_evaluation

logger = logging.getLogger(__name__)


class ResumableEvalHook(EvalHook):
    """
    Detectron2's, which begins a run that goes on with the evaluation that its checkpoint was saved for, if that was cut
    off: one is due after the checkpoint's iteration, and ``metrics.json`` has none.

    All processes need it: rank 0 decides for all.

    Args:
        period: in iterations; 0: only after the last one.
        evaluate: returns {"bbox": {metric: percent}, ...}, nested as one likes.
        folder: ``OUTPUT_DIR``.
    """

    def __init__(self, period: int, evaluate: Callable[[], dict], folder: str | os.PathLike):
        super().__init__(period, evaluate)
        self._folder = folder

    def before_train(self):
        """As the base class's; the numbers are recorded as the last iteration's before."""
        done = self.trainer.start_iter
        due = self._period > 0 and 0 < done < self.trainer.max_iter and done % self._period == 0
        if not due or self._is_recorded(done - 1):
            return
        logger.info("metrics.json has no evaluation after iteration %d, where one is due: evaluating.", done - 1)
        storage = self.trainer.storage
        storage.iter = done - 1
        try:
            self._do_eval()
        finally:
            storage.iter = done

    def _is_recorded(self, iteration: int) -> bool:
        return comm.all_gather(comm.is_main_process() and has_evaluation(self._folder, iteration))[0]
