"""
Models with random weights that behave like trained models.

Random weights alone give few proposals, hardly any foreground RoIs, activations that grow from block to block, and flat
masks: less work than in a trained model, and different work. So each part of the model runs in full, and its output is
replaced by values that resemble those of a trained model, the same for both contenders.
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

    Frozen statistics belong to pretrained weights. With random weights, activations would grow from block to block,
    until losses are in the thousands and all scores are 0 or 1.
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
    Run the RPN in full, and replace its output by 1,000 distinct proposals, most of them near objects.

    A quarter of the 512 RoIs is then foreground, as with a trained model.

    Args:
        model: model that will be called with ``batches`` in turn, repeatedly.
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
    Run all parts in full at test time, and replace proposals, scores and masks by those of a trained model.

    Proposals, logits and deltas are those of the ``boxes`` suite, with 800,000 candidates; masks are those of ``rle``.

    Args:
        model: model for images of 800 x 1216.
        images: batch size; all images have the same boxes.

    Returns:
        list to which the masks computed by the mask head are appended in each call.
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
            of_image.pred_masks = masks[torch.arange(len(of_image)) % DETECTIONS]
        return instances

    _after(model.roi_heads.mask_head, as_trained)
    return computed


def _proposals(boxes: Tensor, image_size: tuple[int, int]) -> Instances:
    logits = torch.linspace(5, -5, len(boxes))
    return Instances(image_size, proposal_boxes=Boxes(boxes), objectness_logits=logits)


def _replace_proposals(model, made: list[list[Instances]]) -> None:
    """Replace the proposals of each call in turn; the losses of the RPN are kept."""
    turns = itertools.cycle([[proposals.to(model.device) for proposals in of_batch] for of_batch in made])
    _after(model.proposal_generator, lambda found: (next(turns), found[1]))


def _after(module, change) -> None:
    """Pass what ``module`` returns through ``change``."""
    module.register_forward_hook(lambda _, __, found: change(found))
