"""Detectron2's dataset mapper, faster, and for images in all supported formats and of any aspect ratio."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import configurable
from detectron2.data import DatasetMapper
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.structures import Instances
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from ..lazy_config.files import build_part, lazy_config, target_of
from ..utils.errors import InputError
from .images.image_files import annotated_size, read_image, read_pil_image
from .images.image_transforms import ResizeScale, ResizeShortestEdge, are_of_size, augment, channels_first
from .images.instance_transforms import masks_to_instances, to_instances, without_empty


class ImageMapper(DatasetMapper):
    """
    Detectron2's ``DatasetMapper`` with :func:`.images.image_files.read_image`. Records are equal for all images that
    both can read.

    Semantic segmentation is not supported.

    Args:
        **kwargs: as for ``DatasetMapper``.
    """

    @configurable
    def __init__(self, is_train: bool, *, augmentations: Sequence, **kwargs):
        super().__init__(is_train, augmentations=keep_a_pixel(augmentations), **kwargs)

    def __call__(self, dataset_dict: dict) -> dict:
        """
        Args:
            dataset_dict: an image in Detectron2's standard format; not modified.

        Returns:
            the record with ``image``, (C, H, W), and for training ``instances``.

        Raises:
            ImageError: if the image can't be read, or its size differs from that of the record.
        """
        record = copy.deepcopy({key: value for key, value in dataset_dict.items() if key != "annotations"})
        record["image"], transforms = self._augmented_image(record)
        shape = tuple(record["image"].shape[1:])
        if self.proposal_topk is not None:
            utils.transform_proposals(record, shape, transforms, proposal_topk=self.proposal_topk)
        if self.is_train and "annotations" in dataset_dict:
            record["instances"] = self._instances(dataset_dict["annotations"], transforms, shape)
        return record

    def _augmented_image(self, record: dict) -> tuple[Tensor, T.TransformList]:
        """(C, H, W), and its transforms. A missing size is added to the record."""
        name = record["file_name"]
        size = annotated_size(record)
        augmentations = self.augmentations.augs
        if self.image_format in ("BGR", "RGB") and are_of_size(augmentations):
            pil_image = read_pil_image(name, size)
            # Only its shape is used.
            utils.check_image_size(record, np.broadcast_to(np.uint8(0), (pil_image.height, pil_image.width)))
            pil_image, transforms = augment(pil_image, augmentations)
            return channels_first(pil_image, self.image_format), transforms
        image = read_image(name, self.image_format, size)
        utils.check_image_size(record, image)
        augmented = T.AugInput(image)
        transforms = self.augmentations(augmented)
        return torch.as_tensor(np.ascontiguousarray(augmented.image.transpose(2, 0, 1))), transforms

    def _instances(self, annotations: Sequence[dict], transforms: T.TransformList, shape: tuple[int, int]) -> Instances:
        """The objects of the annotations, without crowd regions and empty objects."""
        unused = [name for name, is_used in (("segmentation", self.use_instance_mask), ("keypoints", self.use_keypoint))
                  if not is_used]  # fmt: skip
        kept = [
            {key: value for key, value in one.items() if key not in unused}
            for one in annotations
            if one.get("iscrowd", 0) == 0
        ]
        instances = None
        if not any("keypoints" in one for one in kept):
            instances = to_instances(kept, transforms, shape, self.instance_mask_format)
        if instances is None:
            transformed = [
                utils.transform_instance_annotations(
                    copy.deepcopy(one), transforms, shape, keypoint_hflip_indices=self.keypoint_hflip_indices
                )
                for one in kept
            ]
            instances = masks_to_instances(transformed, shape, self.instance_mask_format)
        # Without objects, there are no masks.
        if self.recompute_boxes and instances.has("gt_masks"):  # a crop moves the edges of masks
            instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
        return without_empty(instances)


def build_mapper(cfg, is_train: bool, masks: bool = True):
    """
    Build the mapper of a config: :class:`ImageMapper`, or that of its LazyConfig.

    Args:
        cfg: Detectron2's config with balanced_lvis's keys.
        is_train: whether records get their annotations and the augmentations of training.
        masks: False for training records without masks. A LazyConfig that computes boxes from masks always has them.

    Raises:
        InputError: if the LazyConfig has no mapper, or one that is not derived from ``DatasetMapper``.
    """
    if not cfg.get("LAZY", {}).get("FILE"):
        return ImageMapper(cfg, is_train, **({"use_instance_mask": cfg.MODEL.MASK_ON and masks} if is_train else {}))
    lazy, name = lazy_config(cfg), f"dataloader.{'train' if is_train else 'test'}.mapper"
    node: Any = OmegaConf.select(lazy, name)
    if not isinstance(node, DictConfig) or "_target_" not in node:
        found = "missing" if node is None else f"{str(node)[:80]!r}"
        raise InputError(f"{name} of the LazyConfig is {found}; set it to L(ImageMapper)(...).")
    if target_of(node) is DatasetMapper:
        node._target_ = ImageMapper  # the same records, and images in more formats
    if is_train and not masks and not node.get("recompute_boxes"):
        node.use_instance_mask = False
    mapper = build_part(lazy, name, cfg.LAZY.FILE)
    if not isinstance(mapper, DatasetMapper):
        raise InputError(
            f"{name} of the LazyConfig is {type(mapper).__name__}; it must be L(...) of ImageMapper, or of a class "
            "that is derived from it or from Detectron2's DatasetMapper."
        )
    return mapper


def keep_a_pixel(augmentations: Sequence) -> list:
    """Augmentations whose resizing leaves each side of an image at least one pixel, in place of Detectron2's."""
    return [_REPLACED[type(one)](one) if type(one) in _REPLACED else one for one in augmentations]


_REPLACED: dict[type, Callable] = {
    T.ResizeShortestEdge: lambda one: ResizeShortestEdge(
        one.short_edge_length, one.max_size, "range" if one.is_range else "choice", one.interp
    ),
    T.ResizeScale: lambda one: ResizeScale(
        one.min_scale, one.max_scale, one.target_height, one.target_width, one.interp
    ),
}
