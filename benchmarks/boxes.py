"""
NMS and top-k selection of an image, compared with Detectron2 on the same logits and deltas.

Both start at the output of the predictor and end at the detections: scores, boxes, threshold, NMS, best 300. The input
is synthetic and resembles that of a trained detector: see :func:`head_output`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.structures import Boxes, Instances, pairwise_iou
from torch import Tensor

from balanced_lvis.activations import build_activation
from balanced_lvis.modeling import ActivationOutputLayers

from .measure import Options, peak_mb, row, time_alternating, with_own_peak

IMAGE_SIZE = (800, 1216)
ROIS = 1000
CLASSES = 1203
OBJECTS = 13  # LVIS's mean is 12.7
THRESHOLD = 1e-4


class Work(NamedTuple):
    """Number of candidates above the threshold, and whether logits are in half precision, as with AMP."""

    candidates: int
    half: bool = False
    classes: int = CLASSES


WORKS = [Work(900), Work(5_000), Work(100_000), Work(800_000), Work(800_000, half=True)]


def boxes(options: Options) -> list[dict]:
    """Detections of one image, with several numbers of candidates."""
    return [_compare(work, options) for work in WORKS]


def _compare(work: Work, options: Options) -> dict:
    stock, native = contenders(work, options.device)
    same = identical(stock(), native())
    seconds = time_alternating(stock, native, options.rounds, options.device)
    del stock, native  # and their input; run_job creates it again
    job = {"candidates": work.candidates, "half": work.half, "device": options.device}
    peaks = [with_own_peak(f"{__name__}:run_job", {**job, "contender": i})["peak_mb"] for i in range(2)]
    size = f"{ROIS} x {CLASSES} classes, {work.candidates} candidates" + ", half-precision logits" * work.half
    return row("boxes", size, *seconds, tuple(peaks), same)


def run_job(job: dict) -> dict:
    """Run one contender in this process and return its peak memory: allocated on a GPU, or resident on a CPU."""
    call = contenders(Work(job["candidates"], job["half"]), job["device"])[job["contender"]]
    if job["device"] == "cuda":
        torch.cuda.reset_peak_memory_stats()
    call()
    return {"peak_mb": peak_mb(job["device"])}


def contenders(work: Work, device: str):
    """Stock and native: functions without arguments that return the detections of an image and their RoIs."""
    proposals, logits, deltas = head_output(work)
    predictor = _predictor(work.classes).to(device)
    predictions = logits.to(device), deltas.to(device)
    instances = [Instances(IMAGE_SIZE, proposal_boxes=Boxes(proposals.to(device)))]

    def stock():
        with torch.no_grad():
            return FastRCNNOutputLayers.inference(predictor, predictions, instances)

    def native():
        with torch.no_grad():
            return predictor.inference(predictions, instances)

    return stock, native


def _predictor(classes: int) -> ActivationOutputLayers:
    return ActivationOutputLayers(
        input_shape=ShapeSpec(channels=1),
        activation=build_activation("sigmoid", classes),
        box2box_transform=Box2BoxTransform((10.0, 10.0, 5.0, 5.0)),
        num_classes=classes,
        test_score_thresh=THRESHOLD,
        test_nms_thresh=0.5,
        test_topk_per_image=300,
    )


def head_output(work: Work, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """
    Synthetic output of a trained box head for an image with 13 objects.

    * Proposals: three in five are near an object, the others anywhere, with sides of 12 to 700 px; all distinct.
    * Logits: classes differ in frequency and RoIs in objectness, plus noise. The better a RoI fits an object, the
      higher the logit of the object's class, up to a score of 0.95, followed by 20 similar classes. All logits are
      shifted so that ``work.candidates`` scores pass the threshold; with few candidates, this lowers the best scores
      too.
    * Deltas: half a standard deviation of the regression targets.

    Returns:
        proposals (R, 4) in pixels, logits (R, K+1), deltas (R, 4K).
    """
    generator = torch.Generator().manual_seed(seed)
    objects = _boxes(OBJECTS, IMAGE_SIZE, generator)
    proposals = proposals_around(objects, IMAGE_SIZE, generator)
    logits = _logits(pairwise_iou(Boxes(proposals), Boxes(objects)), work, generator)
    deltas = 0.5 * torch.randn(ROIS, 4 * work.classes, generator=generator)
    return proposals, logits.half() if work.half else logits, deltas


def proposals_around(objects: Tensor, image_size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """
    1,000 distinct proposals that resemble those of a trained RPN: three in five are near an object.

    Args:
        objects: (G, 4) boxes x0, y0, x1, y1 in pixels, at least one.
        image_size: height, width in pixels.

    Returns:
        (1000, 4) boxes, in random order.
    """
    near = objects.repeat(ROIS * 3 // (5 * len(objects)), 1)
    sides = (near[:, 2:] - near[:, :2]).repeat(1, 2)
    near = near + 0.15 * sides * torch.randn(near.shape, generator=generator)
    proposals = torch.cat([_valid(near, image_size), _boxes(ROIS - len(near), image_size, generator)])
    return proposals[torch.randperm(ROIS, generator=generator)]


def _boxes(number: int, image_size: tuple[int, int], generator) -> Tensor:
    height, width = image_size
    sides = torch.exp(torch.empty(number, 1).uniform_(math.log(16), math.log(500), generator=generator))
    aspect = torch.exp(0.3 * torch.randn(number, 1, generator=generator))
    centre = torch.rand(number, 2, generator=generator) * torch.tensor([width, height])
    half = torch.cat([sides * aspect, sides / aspect], 1) / 2
    return _valid(torch.cat([centre - half, centre + half], 1), image_size)


def _valid(corners: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Clip boxes to the image, with sides of at least 12 px."""
    height, width = image_size
    last = torch.tensor([width, height])
    first = corners[:, :2].clamp(min=0).minimum(last - 12.0)
    return torch.cat([first, corners[:, 2:].minimum(last).maximum(first + 12)], 1)


def _logits(ious: Tensor, work: Work, generator) -> Tensor:
    candidates, classes = work.candidates, work.classes

    def noise(*shape):
        return torch.randn(*shape, generator=generator)

    logits = _with_passing(1.2 * noise(1, classes) + 0.7 * noise(ROIS, 1) + noise(ROIS, classes), candidates)
    fit, which = ious.max(1)
    alike = torch.randint(classes, (OBJECTS, 21), generator=generator)[which]
    behind = torch.cat([torch.zeros(1), torch.linspace(2, 6, 20)])
    looks = 11 * fit[:, None] - 8 - behind + 0.7 * noise(ROIS, 21)
    logits.scatter_reduce_(1, alike, looks, "amax")
    return torch.cat([_with_passing(logits, candidates), noise(ROIS, 1)], 1)


def _with_passing(logits: Tensor, candidates: int) -> Tensor:
    """Shift logits so that ``candidates`` scores exceed the threshold."""
    at_threshold = math.log(THRESHOLD / (1 - THRESHOLD))
    return logits + at_threshold - logits.flatten().kthvalue(logits.numel() - candidates).values


def identical(a, b) -> bool:
    """Whether two results of ``fast_rcnn_inference`` are bit-identical and in the same order."""
    a, b = _tensors(*a), _tensors(*b)
    return len(a) == len(b) and all(map(torch.equal, a, b))


def _tensors(instances: list[Instances], rois: list[Tensor]) -> list[Tensor]:
    return [x for i in instances for x in (i.pred_boxes.tensor, i.scores, i.pred_classes)] + list(rois)
