"""
Detectron2's mask head without the masks that nobody looks at.

Of an RoI's K masks, one per class, training reads that of the ground-truth class and inference that of the predicted
class. The K channels come from a 1x1 convolution, so that each can be computed without the others: with LVIS's 1,203
classes that is 1/1203 of the arithmetic, and 1/1203 of the memory.

Shape shorthand: R RoIs of all images together, K foreground classes, D channels, masks of M x M.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from detectron2.layers import cat
from detectron2.modeling.roi_heads import ROI_MASK_HEAD_REGISTRY
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead, mask_rcnn_inference, mask_rcnn_loss
from detectron2.structures import Instances
from torch import Tensor, nn


def chosen_logits(features: Tensor, classes: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """
    One output channel of a 1x1 convolution for each RoI: ``conv2d(features, weight, bias)[range(R), classes]``.

        s[r, y, x] = b[c_r] + sum_d W[c_r, d] f[r, d, y, x]

    Classes that no RoI has get gradients of 0. Under autocast the result has the dtype that the convolution's has.

    Args:
        features: (R, D, M, M), R may be 0; contiguous or channels_last, neither is copied.
        classes: (R,) int64 in 0..K-1.
        weight: (K, D, 1, 1).
        bias: (K,).

    Returns:
        (R, M, M)
    """
    # Embedding's backward pass adds up RoIs of the same class in the same order every time; that of weight[classes]
    # adds atomically, hence in any order.
    weight = F.embedding(classes, weight.flatten(1))
    bias = F.embedding(classes, bias[:, None])
    # Autocast would choose the dtypes inside a function of its own, and not those of its backward pass.
    weigh = _weigh if torch.is_autocast_enabled(features.device.type) else _Weigh.apply
    logits = weigh(bias[:, :, None], weight[:, None, :], features.flatten(2))
    return logits.view(-1, *features.shape[2:])


def _weigh(bias: Tensor, weight: Tensor, features: Tensor) -> Tensor:
    """(R, 1, 1) + (R, 1, D) @ (R, D, P) = (R, 1, P), P values of a mask."""
    return torch.baddbmm(bias, weight, features)


class _Weigh(torch.autograd.Function):
    """:func:`_weigh`, of which the gradient of the features is a product of two numbers each, not a matrix product."""

    @staticmethod
    def forward(ctx, bias, weight, features):
        ctx.save_for_backward(weight, features)
        return _weigh(bias, weight, features)

    @staticmethod
    def backward(ctx, gradient):
        weight, features = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        return (
            gradient.sum(2, keepdim=True) if wanted[0] else None,
            torch.bmm(gradient, features.transpose(1, 2)) if wanted[1] else None,
            gradient * weight.transpose(1, 2) if wanted[2] else None,
        )


@ROI_MASK_HEAD_REGISTRY.register()
class ChosenClassMaskHead(MaskRCNNConvUpsampleHead):
    """
    ``MaskRCNNConvUpsampleHead`` that computes each RoI's mask of its own class only.

    Parameters, their names, the loss, what is logged and drawn (``VIS_PERIOD``), gradients and inference are
    Detectron2's own, up to the rounding of a sum of D products. ``layers`` still computes all K masks. As
    :meth:`forward` reads the parameters of ``predictor`` without calling it, hooks on that one module don't run.

    Args:
        input_shape, **kwargs: as for ``MaskRCNNConvUpsampleHead``.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        for module in self.modules():
            if isinstance(module, nn.ReLU):
                module.inplace = True  # nothing reads its input again

    def forward(self, x: Tensor, instances: list[Instances]):
        """
        Args:
            x: (R, C, M/2, M/2) pooled features.
            instances: one per image, R together. In training foreground RoIs with ``proposal_boxes``, ``gt_classes``
                and ``gt_masks``, else detections with ``pred_classes``.

        Returns:
            in training {"loss_mask": scalar}, else ``instances``, now with ``pred_masks`` (R_i, 1, M, M) in 0..1.
        """
        if self.predictor.out_channels == 1:  # class-agnostic: there is nothing to choose from
            return super().forward(x, instances)
        for layer in list(self)[:-1]:  # the last one is the predictor
            x = layer(x)
        logits = self.predict(x, instances)
        if self.training:
            return {"loss_mask": mask_rcnn_loss(logits, instances, self.vis_period) * self.loss_weight}
        mask_rcnn_inference(logits, instances)
        return instances

    def predict(self, features: Tensor, instances: list[Instances]) -> Tensor:
        """
        Args:
            features: (R, D, M, M), what ``predictor`` takes.
            instances: as for :meth:`forward`.

        Returns:
            (R, 1, M, M) logits. To Detectron2's functions a single channel is a class-agnostic mask, which is read as
            it is.
        """
        classes = cat([i.gt_classes if self.training else i.pred_classes for i in instances])
        return chosen_logits(features, classes.long(), self.predictor.weight, self.predictor.bias)[:, None]


def with_chosen_class_masks(cfg):
    """
    The config with :class:`ChosenClassMaskHead` in place of Detectron2's default mask head.

    ``cfg`` itself stays as it is, and so does a config with another mask head, or with
    ``MODEL.ROI_MASK_HEAD.CHOSEN_CLASS_ONLY`` False.
    """
    node = cfg.MODEL.ROI_MASK_HEAD
    if not (node.CHOSEN_CLASS_ONLY and node.NAME == "MaskRCNNConvUpsampleHead"):
        return cfg
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.ROI_MASK_HEAD.NAME = "ChosenClassMaskHead"
    return cfg
