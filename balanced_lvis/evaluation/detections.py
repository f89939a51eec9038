"""Detections on their way from a model to an evaluator: masks stay as small as the mask head made them."""

from __future__ import annotations

import contextlib
import functools

import numpy as np
from detectron2.evaluation import inference_context
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Instances, ROIMasks
from pycocotools import mask as mask_util
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from .rle import masks_to_rle


@contextlib.contextmanager
def unpasted(model: nn.Module):
    """
    A model that leaves masks in their boxes, for ``inference_on_dataset``.

    What else Detectron2 does after the heads stays its own: boxes are scaled to the output's size, clipped, and dropped
    where nothing is left of them. ``pred_masks`` is a ``ROIMasks``, M x M values per box, instead of the image's
    pixels, so that a GPU has little to hand over. The model itself is unchanged, and in evaluation mode here.

    Args:
        model: as trained, with or without ``DistributedDataParallel`` around it. One that is not a ``GeneralizedRCNN``,
            or has its own ``inference``, is handed back as it is, and pastes.

    Yields:
        a function from records to [{"instances": ``Instances``}], or ``model``.
    """
    rcnn = model.module if isinstance(model, DistributedDataParallel) else model
    if getattr(type(rcnn), "inference", None) is not GeneralizedRCNN.inference:
        yield model
        return
    with inference_context(rcnn):
        yield functools.partial(_detect, rcnn)


def _detect(rcnn: GeneralizedRCNN, batched_inputs: list[dict]) -> list[dict]:
    found = rcnn.inference(batched_inputs, do_postprocess=False)
    return [{"instances": _at_output_size(*pair)} for pair in zip(found, batched_inputs)]


def _at_output_size(instances: Instances, record: dict) -> Instances:
    """Detectron2's own post-processing, to which the masks are a field like any other."""
    height, width = (record.get(key, size) for key, size in zip(("height", "width"), instances.image_size))
    instances, masks = _without_masks(instances)
    if masks is None:
        return detector_postprocess(instances, height, width)
    instances.roi_masks = masks if isinstance(masks, ROIMasks) else ROIMasks(masks[:, 0])
    instances = detector_postprocess(instances, height, width)
    instances.pred_masks = instances.roi_masks
    instances.remove("roi_masks")
    return instances


def to_results(instances: Instances, image_id: int) -> list[dict]:
    """
    Detectron2's ``instances_to_coco_json``, which also takes masks that are not pasted.

    Args:
        instances: on the CPU, at the output's size; ``pred_masks``, if there are any, a ``ROIMasks`` or (n, H, W).
    """
    without_masks, masks = _without_masks(instances)
    results = instances_to_coco_json(without_masks, image_id)
    if masks is not None:
        for result, rle in zip(results, instance_rles(instances)):
            result["segmentation"] = rle
    return results


def instance_rles(instances: Instances) -> list[dict]:
    """
    Args:
        instances: on the CPU, at the output's size, with ``pred_masks``: a ``ROIMasks`` or (n, H, W).

    Returns:
        {"size": [H, W], "counts": str} for each.
    """
    masks = instances.pred_masks
    if isinstance(masks, ROIMasks):
        return masks_to_rle(masks.tensor, instances.pred_boxes, instances.image_size)
    rles = [mask_util.encode(np.asfortranarray(mask, dtype=np.uint8)) for mask in masks.numpy()]
    return [{**rle, "counts": rle["counts"].decode("ascii")} for rle in rles]


def _without_masks(instances: Instances):
    """Other instances, with the same fields but ``pred_masks``; and those, None where there are none."""
    fields = dict(instances.get_fields())
    masks = fields.pop("pred_masks", None)
    return Instances(instances.image_size, **fields), masks
