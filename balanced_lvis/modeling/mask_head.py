"""
Detectron2's mask head, computing only the masks that are used.

Of the K masks of a RoI, one per class, training uses that of the ground-truth class and inference that of the predicted
class. The K channels are outputs of a 1x1 convolution, so each can be computed without the others: with LVIS's 1,203
classes, at 1/1203 of the arithmetic and memory.

Shape shorthand: R RoIs of all images together, K foreground classes, D channels, masks of M x M.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.layers import cat
from detectron2.modeling.roi_heads import ROI_MASK_HEAD_REGISTRY
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead, mask_rcnn_inference, mask_rcnn_loss
from detectron2.structures import Instances
from torch import Tensor, nn

from ..activations.normalized_linear import check_temperature, unit_vectors
from ..utils.errors import InputError

_NAME = "MaskRCNNConvUpsampleHead"


def chosen_logits(features: Tensor, classes: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """
    One output channel of a 1x1 convolution for each RoI: ``conv2d(features, weight, bias)[range(R), classes]``.

        s[r, y, x] = b[c_r] + sum_d W[c_r, d] f[r, d, y, x]

    Classes without RoIs get gradients of 0. Under autocast, the result has the dtype of a convolution's.

    Args:
        features: (R, D, M, M), contiguous or channels_last, neither of which is copied; R may be 0.
        classes: (R,) int64 in 0..K-1.
        weight: (K, D, 1, 1).
        bias: (K,).

    Returns:
        (R, M, M)
    """
    # The backward pass of an embedding adds the RoIs of a class in a fixed order; that of weight[classes] adds
    # atomically, hence in any order.
    weight = F.embedding(classes, weight.flatten(1))
    bias = F.embedding(classes, bias[:, None])
    # Autocast would choose the dtypes in the forward pass of a custom function, but not in its backward pass.
    weigh = _weigh if torch.is_autocast_enabled(features.device.type) else _Weigh.apply
    logits = weigh(bias[:, :, None], weight[:, None, :], features.flatten(2))
    return logits.view(-1, *features.shape[2:])


def _weigh(bias: Tensor, weight: Tensor, features: Tensor) -> Tensor:
    """(R, 1, 1) + (R, 1, D) @ (R, D, P) = (R, 1, P), P values of a mask."""
    return torch.baddbmm(bias, weight, features)


class _Weigh(torch.autograd.Function):
    """:func:`_weigh` whose gradient of the features is an elementwise product instead of a matrix product."""

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


class NormalizedConv2d(nn.Conv2d):
    """
    1x1 convolution of a cosine, as a mask predictor (Wang et al., Seesaw Loss, CVPR 2021).

        s[r, k, y, x] = b[k] + t cos(W[k], f[r, :, y, x])

    Parameters have the names and shapes of a convolution's, and the initial values of the authors' code.

    Args:
        in_channels: D.
        out_channels: K.
        temperature: the factor t.
    """

    bias: Tensor  # there always is one

    def __init__(self, in_channels: int, out_channels: int, temperature: float):
        super().__init__(in_channels, out_channels, kernel_size=1)
        self.temperature = temperature
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(R, D, M, M) to (R, K, M, M)."""
        return F.conv2d(*self.operands(x))

    def operands(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Input, weight and bias of the convolution that gives the result."""
        return self.temperature * unit_vectors(x), unit_vectors(self.weight), self.bias


@ROI_MASK_HEAD_REGISTRY.register()
class ChosenClassMaskHead(MaskRCNNConvUpsampleHead):
    """
    ``MaskRCNNConvUpsampleHead`` that computes, for each RoI, only the mask of its class.

    Parameters, their names, the loss, metrics and images (``VIS_PERIOD``), gradients and inference are Detectron2's, up
    to the rounding of a sum of D products. ``layers`` still computes all K masks. Hooks on ``predictor`` don't run, as
    :meth:`forward` reads its parameters without calling it.

    Args:
        input_shape, **kwargs: as for ``MaskRCNNConvUpsampleHead``.
        temperature: of a :class:`NormalizedConv2d` as ``predictor``; 0 for Detectron2's convolution.

    Raises:
        InputError: for a negative ``temperature``.
    """

    predictor: Any  # a Conv2d

    @configurable
    def __init__(self, *args, temperature: float = 0.0, **kwargs):
        super().__init__(*args, **kwargs)
        if temperature:
            check_temperature(temperature, "MODEL.ROI_MASK_HEAD.TEMPERATURE")
            stock = self.predictor
            self.predictor = NormalizedConv2d(stock.in_channels, stock.out_channels, temperature)
        for module in self.modules():
            if isinstance(module, nn.ReLU):
                module.inplace = True  # nothing reads its input again

    @classmethod
    def from_config(cls, cfg, input_shape):
        # Detectron2's own configs don't have this key.
        temperature = cfg.MODEL.ROI_MASK_HEAD.get("TEMPERATURE", 0.0)
        return {**super().from_config(cfg, input_shape), "temperature": temperature}

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
            features: (R, D, M, M), the input of ``predictor``.
            instances: as for :meth:`forward`.

        Returns:
            (R, 1, M, M) logits. Detectron2's functions take a single channel for a class-agnostic mask.
        """
        classes = cat([i.gt_classes if self.training else i.pred_classes for i in instances])
        weight, bias = self.predictor.weight, self.predictor.bias
        if isinstance(self.predictor, NormalizedConv2d):
            features, weight, bias = self.predictor.operands(features)
        return chosen_logits(features, classes.long(), weight, bias)[:, None]


def with_chosen_class_masks(cfg):
    """
    The config with :class:`ChosenClassMaskHead` in place of Detectron2's default mask head.

    ``cfg`` is not changed. It is returned if it has another mask head or ``MODEL.ROI_MASK_HEAD.CHOSEN_CLASS_ONLY`` is
    False.

    Raises:
        InputError: if it is returned, but asks for a normalized predictor.
    """
    node = cfg.MODEL.ROI_MASK_HEAD
    if not (node.CHOSEN_CLASS_ONLY and node.NAME == _NAME):
        if node.TEMPERATURE and ChosenClassMaskHead.__name__ != node.NAME:
            raise InputError(
                f"MODEL.ROI_MASK_HEAD.TEMPERATURE is {node.TEMPERATURE}, a normalized mask predictor, but the mask "
                f"head is Detectron2's {node.NAME}, which has none; set MODEL.ROI_MASK_HEAD.TEMPERATURE to 0, or "
                f"NAME to {_NAME} and CHOSEN_CLASS_ONLY to True."
            )
        return cfg
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.ROI_MASK_HEAD.NAME = "ChosenClassMaskHead"
    return cfg
