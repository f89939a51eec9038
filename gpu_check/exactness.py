"""Comparison of results on this device with those on the CPU, or with Detectron2 on the same device."""

from __future__ import annotations

import numpy as np
import torch
from detectron2.layers import paste_masks_in_image
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes
from pycocotools import mask as mask_util

from balanced_lvis.activations import activation_names, build_activation
from balanced_lvis.evaluation.mask_rle import masks_to_rle
from balanced_lvis.modeling.mask_head import chosen_logits
from balanced_lvis.modeling.pooling import faster_pooler
from balanced_lvis.priors import ClassPrior
from benchmarks import boxes as box_benchmark

from .verdicts import CheckFailedError, Context

PRIOR = ClassPrior(tuple("abcdef"), np.array([1, 5, 20, 60, 150, 400]), 500)
# The tail has three of these classes. Random numbers differ between devices, so none has an effect: with gamma 1, no
# class is left out at random; the batch has more than one class, so that none is drawn; and if all classes are in the
# tail, no negatives are dropped at random.
OPTIONS: dict[str, dict] = {
    "equalization": {"threshold": 0.05},
    "softmax_equalization": {"threshold": 0.05, "gamma": 1.0},
    "federated": {"classes_per_batch": 1},
    "drop_loss": {"tail_groups": "rcf"},
    "gol": {"tail_groups": "rcf"},
}
IMAGE = (320, 480)


def activations(context: Context):
    """Losses and gradients of every activation, compared with the CPU."""
    torch.manual_seed(0)
    logits, gt_classes = 3 * torch.randn(200, 7), torch.randint(0, 7, (200,))
    names = activation_names()
    for name in names:
        found = []
        for device in ("cpu", context.device):
            x = logits.to(device, copy=True).requires_grad_()
            activation = build_activation(name, 6, PRIOR, **OPTIONS.get(name, {})).to(device)
            loss = activation.loss(x, gt_classes.to(device))
            loss.backward()
            assert x.grad is not None
            found.append((loss.detach().cpu(), x.grad.cpu()))
        for what, on_cpu, on_device in zip(("loss", "gradient"), *found):
            _require_close(f"{what} of {name}", on_device, on_cpu, 1e-5)
    return f"{len(names)} losses and gradients equal those on the CPU", {}


def detections(context: Context):
    """NMS and top-k selection, bit-identical to Detectron2 on this device."""
    works = [box_benchmark.Work(candidates, half, classes=200)
             for candidates, half in ((900, False), (20_000, False), (150_000, False), (150_000, True))]  # fmt: skip
    for work in works:
        stock, native = box_benchmark.contenders(work, context.device)
        if not box_benchmark.identical(stock(), native()):
            raise CheckFailedError(
                f"{work.candidates} candidates (half: {work.half}): detections differ from Detectron2's"
            )
    return f"{len(works)} sets of detections are bit-identical to Detectron2's", {}


def pooling(context: Context):
    """RoI pooling and its gradient, compared with Detectron2 on this device."""
    generator = torch.Generator().manual_seed(0)
    features = [torch.randn(2, 8, IMAGE[0] >> level, IMAGE[1] >> level, generator=generator) for level in (2, 3, 4, 5)]
    objects = torch.tensor([[10.0, 20, 60, 90], [100, 30, 400, 300]])
    boxes = [box_benchmark.proposals_around(objects, IMAGE, generator)[:100] for _ in range(2)]
    stock = ROIPooler(7, scales=[1 / 4, 1 / 8, 1 / 16, 1 / 32], sampling_ratio=0, pooler_type="ROIAlignV2")
    found = []
    for pooler in (stock, faster_pooler(stock)):
        inputs = [level.to(context.device, copy=True).requires_grad_() for level in features]
        pooled = pooler.to(context.device)(inputs, [Boxes(b.to(context.device)) for b in boxes])
        pooled.square().sum().backward()
        found.append((pooled.detach(), [level.grad for level in inputs]))
    if not torch.equal(found[0][0], found[1][0]):
        raise CheckFailedError("pooled features differ from Detectron2's")
    for stock_grad, native_grad in zip(found[0][1], found[1][1]):
        _require_close("gradient of the features", native_grad, stock_grad, 1e-4)
    return "pooled features are bit-identical to Detectron2's, gradients equal up to rounding", {}


def masks(context: Context):
    """Mask logits of the selected class compared with a full convolution, and RLE masks with pasted ones."""
    generator = torch.Generator().manual_seed(0)
    features, weight, bias = (torch.randn(*shape, generator=generator).to(context.device)
                              for shape in ((40, 64, 28, 28), (200, 64, 1, 1), (200,)))  # fmt: skip
    classes = torch.randint(0, 200, (40,), generator=generator).to(context.device)
    expected = torch.nn.functional.conv2d(features, weight, bias)[torch.arange(40, device=context.device), classes]
    logits = chosen_logits(features, classes, weight, bias)
    # On a GPU, a convolution may use TF32, with 10 bits.
    _require_close("mask logits", logits, expected, 1e-5 if context.device == "cpu" else 1e-2)
    boxes = box_benchmark.proposals_around(torch.tensor([[10.0, 20, 60, 90]]), IMAGE, generator)[:40]
    probabilities = logits.sigmoid().cpu()
    pasted = paste_masks_in_image(probabilities, Boxes(boxes), IMAGE)
    rles = masks_to_rle(probabilities, Boxes(boxes), IMAGE)
    for mask, rle in zip(pasted.numpy(), rles):
        if not (mask_util.decode(rle) == mask).all():
            raise CheckFailedError("RLE masks differ from pasted ones")
    return "mask logits equal a convolution's, RLE masks equal pasted ones", {}


def _require_close(what: str, found, expected, tolerance: float) -> None:
    if not torch.allclose(found, expected, rtol=tolerance, atol=tolerance):
        raise CheckFailedError(f"{what} differs by up to {float((found - expected).abs().max()):.3g}")
