"""From an image's record to what a model takes: Detectron2's mapper, on pictures of any kind."""

from __future__ import annotations

import copy

import numpy as np
import torch
from detectron2.data import DatasetMapper
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T

from .image_files import read_image
from .resize import keep_a_pixel


class ImageMapper(DatasetMapper):
    """
    Detectron2's ``DatasetMapper`` with :func:`balanced_lvis.data.image_files.read_image`: equal records
    wherever both can.

    Semantic segmentation is left out.
    """

    @classmethod
    def from_config(cls, cfg, is_train: bool = True) -> dict:
        """As the base class's."""
        made = super().from_config(cfg, is_train)
        return {**made, "augmentations": keep_a_pixel(made["augmentations"])}

    def __call__(self, dataset_dict: dict) -> dict:
        """
        Args:
            dataset_dict: an image in Detectron2's standard format. Not changed.

        Returns:
            a record of its ``image``, (C, H, W), and in training its ``instances``.

        Raises:
            ImageError: if the image can't be read, or is of another size than its record says.
        """
        record = copy.deepcopy(dataset_dict)
        size = (record["width"], record["height"]) if {"width", "height"} <= record.keys() else None
        image = read_image(record["file_name"], self.image_format, size)
        utils.check_image_size(record, image)  # sets a size that is missing
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
