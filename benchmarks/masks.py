"""
The predictor of the mask head, compared with Detectron2 on the same features.

The layers before it, four convolutions and a deconvolution, are the same in both and are not measured, and neither is
the rasterisation of ground-truth polygons. Features are rectified normal values, weights give logits of about -2..2,
and classes are drawn uniformly from all 1,203.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead, mask_rcnn_inference, mask_rcnn_loss
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import Tensor

from balanced_lvis.modeling.mask_head import ChosenClassMaskHead
from balanced_lvis.utils.memory_allocator import keep_freed_memory

from .measure import Options, peak_mb, row, time_alternating, with_own_peak, without_tf32

CONTENDERS = ("stock", "native")
HEADS = {"stock": MaskRCNNConvUpsampleHead, "native": ChosenClassMaskHead}
CLASSES, CHANNELS, SIDE = 1203, 256, 28
# Results are the same up to this fraction of the largest entry of a tensor: gradients of the weights are sums of
# 128 x 784 products, and the resolution of float32 is 6e-8.
TOLERANCE = 1e-5
TRAIN_ROIS, TEST_ROIS = 128, 300


def masks(options: Options) -> list[dict]:
    """A training step of the predictor with its loss, and the masks of an image's detections."""
    return [
        _compare(options, TRAIN_ROIS, True, f"{TRAIN_ROIS} RoIs x {CLASSES} classes, forward + loss + backward"),
        _compare(options, TEST_ROIS, False, f"{TEST_ROIS} RoIs x {CLASSES} classes, inference"),
    ]


def _compare(options: Options, rois: int, training: bool, size: str) -> dict:
    job = {"rois": rois, "classes": CLASSES, "training": training, "device": options.device}
    timed = with_own_peak(f"{__name__}:time_both", {**job, "rounds": options.rounds})
    peaks = (_extra_memory({**job, "contender": CONTENDERS[0]}), _extra_memory({**job, "contender": CONTENDERS[1]}))
    return row("masks", size, timed["seconds"][0], timed["seconds"][1], peaks, timed["identical"])


def time_both(job: dict) -> dict:
    """
    Run both in this process, which keeps freed memory, as in training with ``tools/train_net.py``.

    Returns:
        {"seconds": [stock, native], "identical": bool}
    """
    if job["device"] == "cpu":
        keep_freed_memory()
    stock, native = (step_of({**job, "contender": contender}) for contender in CONTENDERS)
    with without_tf32():
        identical = agree(stock(), native())
    return {"seconds": time_alternating(stock, native, job["rounds"], job["device"]), "identical": identical}


def agree(stock: tuple[Tensor, ...], native: tuple[Tensor, ...]) -> bool:
    """Whether two contenders' results are the same up to :data:`TOLERANCE`."""
    return all(map(_agree, stock, native))


def _agree(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() <= TOLERANCE * a.abs().max())


def _extra_memory(job: dict) -> float:
    return with_own_peak(f"{__name__}:extra_memory", job)["peak_mb"]


class ReadyMasks:
    """
    Ground truth that is already rasterised: the targets of ``mask_rcnn_loss``.

    Args:
        targets: (R, M, M) bool.
    """

    def __init__(self, targets: Tensor):
        self.targets = targets

    def __len__(self) -> int:
        return len(self.targets)

    def crop_and_resize(self, boxes: Tensor, side: int) -> Tensor:
        """The targets, whose boxes and size are these already."""
        return self.targets


def step_of(job: dict) -> Callable[[], tuple[Tensor, ...]]:
    """
    The measured function with its inputs, which are the same for both contenders.

    Args:
        job: "contender", "rois", "classes", "training" and "device".

    Returns:
        function without arguments. In training, it returns the loss and the gradients of features, weights and biases;
        otherwise the probabilities of the masks.
    """
    torch.manual_seed(0)
    shape = (job["rois"], CHANNELS, SIDE, SIDE)
    features = torch.empty(shape, device=job["device"]).normal_().relu_()  # in place, without a second copy
    instances = [_instances(job["rois"], job["classes"], job["device"])]
    head = HEADS[job["contender"]](ShapeSpec(channels=8), num_classes=job["classes"], conv_dims=[CHANNELS])
    torch.nn.init.normal_(head.predictor.weight, std=0.1)
    head.to(job["device"]).train(job["training"])
    step = _training_step if job["training"] else _inference_step
    return lambda: step(head, features, instances)


def _instances(rois: int, num_classes: int, device: str) -> Instances:
    classes = torch.randint(num_classes, (rois,), device=device)
    targets = torch.rand(rois, SIDE, SIDE, device=device) < 0.5
    return Instances(
        (800, 1216),
        gt_classes=classes,
        pred_classes=classes,
        proposal_boxes=Boxes(torch.zeros(rois, 4, device=device)),
        gt_masks=ReadyMasks(targets),
    )


def _logits(head, features, instances) -> Tensor:
    return head.predict(features, instances) if isinstance(head, ChosenClassMaskHead) else head.predictor(features)


def _training_step(head, features, instances):
    variables = features.detach().requires_grad_(), head.predictor.weight, head.predictor.bias
    with EventStorage():
        loss = mask_rcnn_loss(_logits(head, variables[0], instances), instances)
    return (loss.detach(), *torch.autograd.grad(loss, variables))


@torch.no_grad()
def _inference_step(head, features, instances):
    mask_rcnn_inference(_logits(head, features, instances), instances)
    return tuple(i.pred_masks for i in instances)


def extra_memory(job: dict) -> dict:
    """
    Peak memory of one step beyond its inputs and, in training, beyond the gradient of the features, which both return.

    It is measured as the increase of this process's peak. A step with one RoI and two classes first loads the
    libraries; then the peak with all inputs in memory is compared with that after the step.

    Args:
        job: as for :func:`step_of`.

    Returns:
        {"peak_mb": ...}
    """
    step_of({**job, "rois": 1, "classes": 2})()
    step = step_of(job)
    # Ones, not zeros: zeroed memory is only mapped when it is written to.
    gradient = torch.ones(job["rois"] * job["training"], CHANNELS, SIDE, SIDE, device=job["device"])
    before = peak_mb(job["device"])
    del gradient
    step()
    return {"peak_mb": peak_mb(job["device"]) - before}
