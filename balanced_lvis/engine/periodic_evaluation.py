"""Evaluation during training, each recorded once, also in a run that was ended in the middle of one and resumed."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable

from detectron2.engine.hooks import EvalHook
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm

from .metrics_file import has_evaluation

logger = logging.getLogger(__name__)


class ResumableEvalHook(EvalHook):
    """
    Detectron2's, which has an evaluation's numbers written at once, and which begins a resumed run with the evaluation
    that its checkpoint was saved for, if that was cut off: one is due after the checkpoint's iteration, and
    ``metrics.json`` has none.

    All processes need it: rank 0 decides for all.

    Args:
        period: in iterations; 0: only after the last one.
        evaluate: returns {"bbox": {metric: percent}, ...}, nested as one likes; an empty dict on other ranks than 0.
        folder: ``OUTPUT_DIR``.
        record: called with the names of an evaluation's numbers once they are in the storage; where there are any.
    """

    _func: Callable  # the base class's

    def __init__(
        self, period: int, evaluate: Callable[[], dict], folder: str | os.PathLike,
        record: Callable[[Iterable[str]], None] = lambda names: None,
    ):  # fmt: skip
        super().__init__(period, evaluate)
        self._folder = folder
        self._record = record

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

    def after_train(self):
        """As the base class's, which would also evaluate after the last iteration has failed."""
        if self.trainer.iter >= self.trainer.max_iter:
            self._do_eval()
        del self._func, self._record

    def _do_eval(self):
        evaluate = self._func
        found: dict = {}
        self._func = lambda: found.update(evaluate() or {}) or found
        try:
            super()._do_eval()
        finally:
            self._func = evaluate
        if found:
            self._record(flatten_results_dict(found))

    def _is_recorded(self, iteration: int) -> bool:
        return comm.all_gather(comm.is_main_process() and has_evaluation(self._folder, iteration))[0]
