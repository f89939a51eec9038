"""What a training tells of the images that it could not use."""

from __future__ import annotations

import json
import logging
import os

from detectron2.engine import HookBase
from detectron2.utils import comm

from ..data.broken_images import BrokenImages
from ..utils.io import write_json
from ..utils.text import one_line

logger = logging.getLogger(__name__)

LIST = "broken_images.json"
_PERIOD = 20  # iterations, as that of Detectron2's log


class ShareBrokenImages(HookBase):
    """
    All processes get to know broken images now and then, so that too many end the run soon.

    Args:
        broken: of this process.
    """

    def __init__(self, broken: BrokenImages):
        self._broken = broken

    def after_step(self):
        """As the base class's."""
        if not (self.trainer.iter + 1) % _PERIOD:
            self._broken.share()


class ListBrokenImages(HookBase):
    """
    List broken images at the end: in the log, in ``OUTPUT_DIR/broken_images.json``, and their number in
    ``results.json`` under "training". It comes after the hook that evaluates.

    Args:
        broken: of this process.
        output_dir: of the run.
    """

    def __init__(self, broken: BrokenImages, output_dir: str):
        self._broken, self._output_dir = broken, output_dir

    def after_train(self):
        """Also after an error, when other processes may be gone: what is known here is told."""
        found = self._broken.found
        if not found or not comm.is_main_process() or not os.path.isdir(self._output_dir):
            return  # a folder that was deleted is not made again
        path = os.path.join(self._output_dir, LIST)
        write_json(path, [{"file_name": name, "reason": reason} for name, reason in sorted(found.items())], indent=1)
        listed = "; ".join(map(one_line, sorted(found)))
        logger.warning("%d broken image(s) were left out, listed in %s: %s", len(found), path, listed)
        self._count_in_results(len(found))

    def _count_in_results(self, count: int) -> None:
        path = os.path.join(self._output_dir, "results.json")
        if self.trainer.iter < self.trainer.max_iter or not os.path.isfile(path):
            return  # stopped before: if there are results, they are another run's
        with open(path, encoding="utf-8") as file:
            results = json.load(file)
        write_json(path, {**results, "training": {"broken_images": count}}, indent=1)
