"""Outputs of a model for evaluation: masks are not pasted into the image, and are encoded and written by a thread."""

from __future__ import annotations

import contextlib
import functools
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from detectron2.evaluation import inference_context
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Instances, ROIMasks
from pycocotools import mask as mask_util
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..utils.errors import InputError
from .category_limit import CategoryLimit
from .detection_store import DetectionWriter
from .mask_rle import masks_to_rle

BATCHES_BEHIND = 4  # limit of waiting batches, so that memory does not grow if encoding is slower than the model


@contextlib.contextmanager
def unpasted(model: nn.Module):
    """
    Context with a version of the model that does not paste masks, for ``inference_on_dataset``.

    ``pred_masks`` is a ``ROIMasks`` with M x M values per box instead of the pixels of the image, so that little
    is copied from a GPU. The rest of Detectron2's post-processing is unchanged: boxes are scaled to the output size,
    clipped, and dropped if they are empty. The model itself is not changed; it is in evaluation mode in the context.

    Args:
        model: a model, with or without ``DistributedDataParallel``. A model that is not a ``GeneralizedRCNN``, or that
            overrides ``inference``, is yielded unchanged and pastes masks.

    Yields:
        function from a list of inputs to [{"instances": ``Instances``}], or ``model``.
    """
    rcnn = model.module if isinstance(model, DistributedDataParallel) else model
    if getattr(type(rcnn), "inference", None) is not GeneralizedRCNN.inference:
        yield model
        return
    with inference_context(rcnn):
        yield functools.partial(_detect, rcnn)


def _detect(rcnn: GeneralizedRCNN, batched_inputs: list[dict]) -> list[dict]:
    found = rcnn.inference(batched_inputs, do_postprocess=False)
    return [{"instances": at_output_size(*pair)} for pair in zip(found, batched_inputs)]


def at_output_size(instances: Instances, record: dict) -> Instances:
    """
    Detectron2's post-processing, with the masks as an ordinary field.

    Args:
        instances: at the size of the network's input, with any fields.
        record: input of the model, with the ``height`` and ``width`` of the output.

    Returns:
        ``Instances`` at the output size without those whose box is empty; ``pred_masks`` is a ``ROIMasks``.
    """
    height, width = (record.get(key, size) for key, size in zip(("height", "width"), instances.image_size))
    instances, masks = _without_masks(instances)
    if masks is None:
        return detector_postprocess(instances, height, width)
    instances.roi_masks = masks if isinstance(masks, ROIMasks) else ROIMasks(masks[:, 0])
    instances = detector_postprocess(instances, height, width)
    instances.pred_masks = instances.roi_masks
    instances.remove("roi_masks")
    return instances


def instances_to_arrays(instances: Instances) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict] | None]:
    """
    Convert the detections of an image for :meth:`balanced_lvis.evaluation.detection_store.DetectionWriter.write`.

    The values are those of Detectron2's ``instances_to_coco_json``.

    Args:
        instances: Detectron2's ``Instances`` at the output size, with pred_boxes, scores, pred_classes and optionally
            pred_masks: a ``ROIMasks``, as from :func:`unpasted`, or (n, H, W).

    Returns:
        (N, 4) float32 x, y, w, h; (N,) float64 scores; (N,) int64 class indices; N RLE masks, or None without masks.
    """
    instances = instances.to(torch.device("cpu"))
    boxes = instances.pred_boxes.tensor.numpy().astype(np.float32)
    boxes[:, 2:] -= boxes[:, :2]
    scores = instances.scores.numpy().astype(np.float64)
    classes = instances.pred_classes.numpy().astype(np.int64)
    return boxes, scores, classes, instance_rles(instances) if instances.has("pred_masks") else None


def instance_rles(instances: Instances) -> list[dict]:
    """
    RLE masks of the detections of an image.

    Args:
        instances: ``Instances`` on the CPU at the output size, with ``pred_masks``: a ``ROIMasks`` or (n, H, W).

    Returns:
        {"size": [H, W], "counts": str} for each detection.
    """
    masks = instances.pred_masks
    if isinstance(masks, ROIMasks):
        threshold = getattr(masks, "threshold", 0.5)  # those of modeling.mask_threshold have one
        return masks_to_rle(masks.tensor, instances.pred_boxes, instances.image_size, threshold)
    rles = [mask_util.encode(np.asfortranarray(mask, dtype=np.uint8)) for mask in masks.numpy()]
    return [{**rle, "counts": rle["counts"].decode("ascii")} for rle in rles]


def _without_masks(instances: Instances):
    """A copy of the instances without ``pred_masks``; and the masks, or None."""
    fields = dict(instances.get_fields())
    masks = fields.pop("pred_masks", None)
    return Instances(instances.image_size, **fields), masks


class OutputWriter(contextlib.AbstractContextManager):
    """
    Writes the outputs of a model in order. Outputs from a GPU are encoded and written by a thread.

    Use it as a context manager, or call :meth:`close`.

    Args:
        writer: the writer of detections.
        limit: leaves out detections; None to write all.

    Attributes:
        with_masks: whether the outputs so far have masks. Outputs of a mask model have them, even without detections.
    """

    def __init__(self, writer: DetectionWriter, limit: CategoryLimit | None = None):
        self.with_masks = False
        self._writer = writer
        self._limit = limit
        self._thread: ThreadPoolExecutor | None = None
        self._pending: deque[Future] = deque()

    def write(self, inputs: list[dict], outputs: list[dict]) -> None:
        """
        Args:
            inputs: inputs of the model, with ``image_id``.
            outputs: outputs of the model, with "instances".

        Raises:
            InputError: if the outputs have no instances.
            OSError: if these or earlier outputs can't be written.
        """
        found = []
        for record, output in zip(inputs, outputs):
            if "instances" not in output:
                raise InputError(
                    f"The model returns {', '.join(output) or 'nothing'} instead of instances; choose a "
                    "MODEL.META_ARCHITECTURE that detects instances, such as GeneralizedRCNN."
                )
            self.with_masks |= output["instances"].has("pred_masks")
            found.append((record["image_id"], output["instances"]))
        self._write_later(found, any(instances.pred_boxes.device.type == "cuda" for _, instances in found))

    def _write_later(self, found: list[tuple], on_gpu: bool) -> None:
        """
        Args:
            found: image id and output of each image; outputs can be moved by ``to``.
            on_gpu: whether to write in the thread.
        """
        if not on_gpu:
            self._write(found)
            return
        self._thread = self._thread or ThreadPoolExecutor(1, "write detections")
        # Copied here: a copy in the thread would wait for the next batch on the GPU too.
        found = [(image_id, output.to(torch.device("cpu"))) for image_id, output in found]
        self._pending.append(self._thread.submit(self._write, found))
        while len(self._pending) > BATCHES_BEHIND:
            self._pending.popleft().result()

    def close(self) -> None:
        """
        Wait until everything is written.

        Raises:
            OSError: if outputs can't be written.
        """
        try:
            while self._pending:
                self._pending.popleft().result()
        finally:
            self.abandon()

    def __exit__(self, kind, error, trace):
        if kind is None:
            self.close()
        else:
            self.abandon()

    def _write(self, found: list[tuple[int, Instances]]) -> None:
        for image_id, instances in found:
            if self._limit is not None:
                instances = instances.to(torch.device("cpu"))
                kept = self._limit.select(instances.scores.numpy(), instances.pred_classes.numpy())
                instances = instances[torch.from_numpy(kept)]
            self._writer.write(image_id, *instances_to_arrays(instances))

    def abandon(self) -> None:
        """End without waiting for what is to be written."""
        if self._thread is not None:
            self._thread.shutdown(wait=True, cancel_futures=True)
            self._thread = None
            self._pending.clear()
