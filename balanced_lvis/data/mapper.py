"""Detectron2's dataset mapper, for images in all supported formats and of any aspect ratio."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from detectron2.config import configurable
from detectron2.data import DatasetMapper
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T

from ..config_files.lazy_files import build_part, lazy_config, target_of
from ..utils.errors import InputError
from .image_files import read_image


class ImageMapper(DatasetMapper):
    """
    Detectron2's ``DatasetMapper`` with :func:`balanced_lvis.data.image_files.read_image`. Records are equal for all
    images that both can read.

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
        record = copy.deepcopy(dataset_dict)
        size = (record["width"], record["height"]) if {"width", "height"} <= record.keys() else None
        image = read_image(record["file_name"], self.image_format, size)
        utils.check_image_size(record, image)  # sets a missing size
        augmented = T.AugInput(image)
        transforms = self.augmentations(augmented)
        image, shape = augmented.image, augmented.image.shape[:2]
        record["image"] = torch.as_tensor(np.ascontiguousarray(image.transpose(2, 0, 1)))
        if self.proposal_topk is not None:
            utils.transform_proposals(record, shape, transforms, proposal_topk=self.proposal_topk)
        if not self.is_train:
            record.pop("annotations", None)
        elif "annotations" in record:
            self._transform_annotations(record, transforms, shape)
        return record


def build_mapper(cfg, is_train: bool, masks: bool = True):
    """
    Build the mapper of a config: :class:`ImageMapper`, or that of its LazyConfig.

    Args:
        cfg: Detectron2's config with balanced_lvis's keys.
        is_train: whether records get their annotations and the augmentations of training.
        masks: False for training records without masks.

    Raises:
        InputError: if the LazyConfig has no mapper.
    """
    if not cfg.get("LAZY", {}).get("FILE"):
        return ImageMapper(cfg, is_train, **({"use_instance_mask": cfg.MODEL.MASK_ON and masks} if is_train else {}))
    lazy, name = lazy_config(cfg), "train" if is_train else "test"
    node = lazy.dataloader[name].get("mapper")
    if node is None:
        raise InputError(f"dataloader.{name}.mapper of the LazyConfig is missing; set it to L(ImageMapper)(...).")
    if target_of(node) is DatasetMapper:
        node._target_ = ImageMapper  # the same records, and images in more formats
    if is_train and not masks:
        node.use_instance_mask = False
    return build_part(lazy, f"dataloader.{name}.mapper", cfg.LAZY.FILE)


class ResizeShortestEdge(T.ResizeShortestEdge):
    """Detectron2's transform, except that the limit of the longer side never rounds the shorter side to 0 pixels."""

    def get_transform(self, image):
        """As in the base class."""
        transform = super().get_transform(image)
        if isinstance(transform, T.ResizeTransform):
            transform.new_h, transform.new_w = max(transform.new_h, 1), max(transform.new_w, 1)
        return transform


def keep_a_pixel(augmentations: Sequence) -> list:
    """Augmentations with :class:`ResizeShortestEdge` in place of Detectron2's."""
    return [_replaced(one) if type(one) is T.ResizeShortestEdge else one for one in augmentations]


def _replaced(one: T.ResizeShortestEdge) -> ResizeShortestEdge:
    return ResizeShortestEdge(one.short_edge_length, one.max_size, "range" if one.is_range else "choice", one.interp)
