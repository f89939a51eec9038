"""
Random weights that work as a trained model's do.

Left alone, they give a handful of proposals, hardly a foreground RoI, activations that grow from block to block and
flat masks: less work than a trained model has, and other work. So each part of the model runs in full, and what it
passes on is replaced by what a trained one would: the same for both contenders.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
from detectron2.layers import FrozenBatchNorm2d
from detectron2.structures import Boxes, Instances
from torch import Tensor

from .boxes import Work, head_output, proposals_around
from .mask_encoding import blobs

CANDIDATES = 800_000  # scores above the threshold in an image of 1,000 proposals x 1,203 classes
DETECTIONS = 300


@torch.no_grad()
def calibrate_frozen_norms(model, batch: list[dict]) -> None:
    """
    Set the statistics of every ``FrozenBatchNorm2d`` to those of its input, in one pass over ``batch``.

    Frozen statistics belong to pretrained weights. Beside random ones they let activations grow from block to block,
    until losses are in the thousands and scores all 0 or 1: no size that a trained model works with.
    """

    def take_statistics(norm, inputs):
        variance, mean = torch.var_mean(inputs[0], dim=(0, 2, 3))
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)

    norms = [module for module in model.modules() if isinstance(module, FrozenBatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(take_statistics) for norm in norms]
    model.backbone(model.preprocess_image(batch).tensor)
    for hook in hooks:
        hook.remove()


def propose_around_objects(model, batches: list[list[dict]]) -> None:
    """
    Let the RPN run in full, and then propose 1,000 distinct boxes, most of them about the objects.

    Of 512 RoIs a quarter is then foreground, as with a trained model.

    Args:
        model: will be called with ``batches`` in turn, over and over.
        batches: training records with ``instances``.
    """
    generator = torch.Generator().manual_seed(0)
    made = [
        [_proposals(proposals_around(i.gt_boxes.tensor, i.image_size, generator), i.image_size) for i in instances]
        for instances in ([record["instances"] for record in batch] for batch in batches)
    ]
    _replace_proposals(model, made)


def detect_as_trained(model, images: int) -> list[Tensor]:
    """
    Let all parts run in full at test time, and pass on 1,000 proposals, scores and masks of a trained model's.

    Proposals, logits and deltas are those of the ``boxes`` suite, with 800,000 candidates; masks those of ``rle``.

    Args:
        model: for images of 800 x 1216.
        images: in a batch; all have the same boxes.

    Returns:
        a list to which the masks that the mask head itself computed are added, call by call.
    """
    proposals, logits, deltas = head_output(Work(CANDIDATES))
    _replace_proposals(model, [[_proposals(proposals, (800, 1216))] * images])
    predictions = tuple(x.repeat(images, 1).to(model.device) for x in (logits, deltas))
    _after(model.roi_heads.box_predictor, lambda found: predictions)
    masks = blobs(np.random.default_rng(0), DETECTIONS)[:, None].to(model.device)
    computed = []

    def as_trained(instances: list[Instances]) -> list[Instances]:
        for of_image in instances:
            computed.append(of_image.pred_masks)
            of_image.pred_masks = masks[: len(of_image)]
        return instances

    _after(model.roi_heads.mask_head, as_trained)
    return computed


def _proposals(boxes: Tensor, image_size: tuple[int, int]) -> Instances:
    logits = torch.linspace(5, -5, len(boxes))
    return Instances(image_size, proposal_boxes=Boxes(boxes), objectness_logits=logits)


def _replace_proposals(model, made: list[list[Instances]]) -> None:
    """The proposals of each call in turn; the RPN's losses stay."""
    turns = itertools.cycle([[proposals.to(model.device) for proposals in of_batch] for of_batch in made])
    _after(model.proposal_generator, lambda found: (next(turns), found[1]))


def _after(module, change) -> None:
    """Pass what ``module`` returns through ``change``."""
    module.register_forward_hook(lambda _, __, found: change(found))
