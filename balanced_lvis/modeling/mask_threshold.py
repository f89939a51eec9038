"""Masks that know the threshold above which a pixel belongs to the object."""

from __future__ import annotations

from detectron2.config import configurable
from detectron2.modeling.roi_heads import StandardROIHeads
from detectron2.structures import Instances, ROIMasks
from torch import Tensor

from ..utils.errors import InputError

DEFAULT = 0.5  # Detectron2's


class ThresholdedMasks(ROIMasks):
    """
    Detectron2's ``ROIMasks`` with a threshold, which replaces that of Detectron2's post-processing.

    Args:
        tensor: (n, M, M) values in [0, 1], each mask relative to its box.
        threshold: lowest value inside of a mask.
    """

    def __init__(self, tensor: Tensor, threshold: float):
        super().__init__(tensor)
        self.threshold = threshold

    def to(self, device) -> ThresholdedMasks:
        return ThresholdedMasks(self.tensor.to(device), self.threshold)

    def __getitem__(self, item) -> ThresholdedMasks:
        return ThresholdedMasks(super().__getitem__(item).tensor, self.threshold)

    def to_bitmasks(self, boxes, height, width, threshold=DEFAULT):
        """Paste the masks with their own threshold; ``threshold`` is ignored."""
        return super().to_bitmasks(boxes, height, width, self.threshold)


class MaskThreshold(StandardROIHeads):
    """
    Base class of RoI heads whose predicted masks have the threshold of ``TEST.MASK_THRESHOLD``.

    Evaluation, prediction and export all read it from the masks. With 0.5, predictions are exactly those of Detectron2.

    Args:
        mask_threshold: lowest value inside of a mask.
        **kwargs: as for the RoI heads.

    Raises:
        InputError: for a threshold outside (0, 1).
    """

    @configurable
    def __init__(self, *, mask_threshold: float = DEFAULT, **kwargs):
        super().__init__(**kwargs)
        if not 0 < mask_threshold < 1:
            raise InputError(f"TEST.MASK_THRESHOLD is {mask_threshold}; it must be between 0 and 1, such as 0.5.")
        self.mask_threshold = mask_threshold

    @classmethod
    def from_config(cls, cfg, input_shape):
        return {**super().from_config(cfg, input_shape), "mask_threshold": cfg.TEST.MASK_THRESHOLD}

    def _forward_mask(self, features, instances):
        """As Detectron2's; at test time, masks have the threshold."""
        found = super()._forward_mask(features, instances)
        if not self.training and self.mask_threshold != DEFAULT:
            for image in found:
                _set_threshold(image, self.mask_threshold)
        return found


def _set_threshold(instances: Instances, threshold: float) -> None:
    if instances.has("pred_masks"):
        masks = instances.pred_masks
        instances.pred_masks = ThresholdedMasks(masks[:, 0] if isinstance(masks, Tensor) else masks.tensor, threshold)
