"""What a model finds, on its way to the disk: the CPU encodes masks while a GPU computes the next batch."""

from __future__ import annotations

import contextlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from detectron2.structures import Instances

from ..utils.errors import InputError
from .detection_store import DetectionWriter
from .detections import instances_to_arrays

BATCHES_BEHIND = 4  # at most, so that memory doesn't grow where encoding is the slower


class OutputWriter(contextlib.AbstractContextManager):
    """
    Writes a model's outputs in the order in which they come; by a thread of its own where they come from a GPU.

    To be used as a context, or closed.

    Args:
        writer: takes the detections.

    Attributes:
        with_masks: whether the outputs so far have masks; those of a mask model do, even if nothing was found.
    """

    def __init__(self, writer: DetectionWriter):
        self.with_masks = False
        self._writer = writer
        self._thread: ThreadPoolExecutor | None = None
        self._pending: deque[Future] = deque()

    def write(self, inputs: list[dict], outputs: list[dict]) -> None:
        """
        Args:
            inputs: of the model; ``image_id`` is read.
            outputs: of the model, with "instances".

        Raises:
            InputError: for a model that returns no instances.
            OSError: if these, or earlier ones, can't be written.
        """
        found = []
        for record, output in zip(inputs, outputs):
            if "instances" not in output:
                raise InputError(
                    f"The model returns {', '.join(output) or 'nothing'}, but instances are evaluated; choose a "
                    "MODEL.META_ARCHITECTURE that detects instances, such as GeneralizedRCNN."
                )
            self.with_masks |= output["instances"].has("pred_masks")
            found.append((record["image_id"], output["instances"]))
        if not any(instances.pred_boxes.device.type == "cuda" for _, instances in found):
            self._write(found)
            return
        self._thread = self._thread or ThreadPoolExecutor(1, "write detections")
        # Copied here, in the order of the GPU's work: a copy by the thread would wait for the next batch too.
        found = [(image_id, instances.to(torch.device("cpu"))) for image_id, instances in found]
        self._pending.append(self._thread.submit(self._write, found))
        while len(self._pending) > BATCHES_BEHIND:
            self._pending.popleft().result()

    def close(self) -> None:
        """
        Wait until all is written.

        Raises:
            OSError: if something can't be.
        """
        try:
            while self._pending:
                self._pending.popleft().result()
        finally:
            self._end_thread()

    def __exit__(self, kind, error, trace):
        if kind is None:
            self.close()
        else:
            self._end_thread()

    def _write(self, found: list[tuple[int, Instances]]) -> None:
        for image_id, instances in found:
            self._writer.write(image_id, *instances_to_arrays(instances))

    def _end_thread(self) -> None:
        """Without what has not begun yet: after an error nobody wants it."""
        if self._thread is not None:
            self._thread.shutdown(wait=True, cancel_futures=True)
            self._thread = None
            self._pending.clear()
