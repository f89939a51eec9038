"""
Simple Copy-Paste (Ghiasi et al., CVPR 2021): objects of a second training image are pasted on an image.

All random numbers are from NumPy's global generator, which :class:`balanced_lvis.data.batches.MappedImages` seeds for
each image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from detectron2.structures import BitMasks, Boxes, Instances
from torch import Tensor

from ..priors import ClassLists, HasClassLists
from ..utils.errors import InputError
from ..utils.keyword_options import chosen_options
from .annotations.annotation_reader import FEDERATED_LISTS
from .samplers import class_names_from_config, resumable_sampler_names

# They list what is annotated in the image without pasted objects.


class CopyPaste:
    """
    Draws a second image and pastes some of its objects.

    With n_c, the number of images that contain class c, and p = ``rarity_power``:

    - The second image is drawn with a probability proportional to max n_c^-p over its classes c. Images without objects
      are never drawn.
    - Of its n objects, m are drawn without replacement, one after the other, with probabilities proportional to
      n_c^-p. m is uniform in 0..min(n, ``max_objects``).
    - Objects keep their pixel coordinates. Parts outside the image are cut off.

    An object that is partly cut off or hidden by pasted objects is removed if what remains has at most ``min_area``
    pixels and a side of its box has moved by more than ``max_box_shift`` pixels, or if nothing remains. The defaults
    are those of the authors' code, for images of 1024 x 1024 pixels. Objects without a pixel are not pasted.

    Args:
        dataset_dicts: N training images in Detectron2's standard format, or a dataset with class lists. Crowd regions
            (``iscrowd``) don't count and are not pasted.
        num_classes: K.
        probability: fraction of the images that are combined with a second image.
        max_objects: largest number of objects to paste on an image.
        rarity_power: p, 0 or more; 0 treats all images and objects alike, as in the paper.
        min_area: in pixels of the transformed image.
        max_box_shift: in pixels of the transformed image.

    Raises:
        InputError: if an option is invalid, no image has objects, or a ``category_id`` is outside 0..K-1.
    """

    def __init__(
        self,
        dataset_dicts: Sequence[Mapping] | HasClassLists,
        num_classes: int,
        *,
        probability: float = 1.0,
        max_objects: int = 100,
        rarity_power: float = 0.0,
        min_area: int = 300,
        max_box_shift: float = 10.0,
    ):
        _check_options(probability, max_objects, rarity_power, min_area, max_box_shift)
        self.probability, self.max_objects = probability, max_objects
        self.min_area, self.max_box_shift = min_area, max_box_shift
        lists = ClassLists.of(dataset_dicts)
        images = np.array([len(positions) for positions in lists.images_by_class(num_classes)])
        # Logarithms, because a large power has factors that no float can represent.
        self._log_weight = -rarity_power * np.log(np.maximum(images, 1))
        self._cumulative = _cumulative(lists, self._log_weight)

    def is_used(self) -> bool:
        """Draw whether an image is combined with a second one."""
        return np.random.rand() < self.probability

    def draw_image(self) -> int:
        """Draw the position of a second image in the dataset."""
        return int(np.searchsorted(self._cumulative, np.random.rand(), "right"))

    def first_image(self) -> int:
        """Position of the first image with objects."""
        return int(np.argmax(self._cumulative > 0))

    def draw_objects(self, classes: np.ndarray) -> np.ndarray:
        """
        Args:
            classes: (n,) classes of the objects of the second image.

        Returns:
            (m,) ascending positions of the objects to paste.
        """
        count = np.random.randint(min(len(classes), self.max_objects) + 1)
        # The largest of log w + Gumbel noise are a draw without replacement with weights w.
        keys = self._log_weight[classes] + np.random.gumbel(size=len(classes))
        return np.sort(np.argsort(-keys)[:count])

    def __call__(self, record: dict, source: dict) -> dict:
        """
        Args:
            record: training record from :class:`balanced_lvis.data.mapper.ImageMapper`, with masks; not modified.
            source: that of the second image, with its own transforms.

        Returns:
            the record with pasted objects after its own. Masks are bitmasks; boxes of objects that are partly hidden or
            cut off are those of their masks. It has no ``neg_category_ids`` and ``not_exhaustive_category_ids``, which
            describe the image without pasted objects. If nothing is pasted, ``record`` itself.
        """
        objects = source["instances"]
        chosen = torch.from_numpy(self.draw_objects(objects.gt_classes.numpy()))
        pasted = self._cut(objects[chosen], record["instances"].image_size) if len(chosen) else objects[chosen]
        if not len(pasted):
            return record
        covered = torch.from_numpy(pasted.gt_masks.tensor.numpy().any(0))
        image = record["image"].clone()
        height, width = (min(sides) for sides in zip(image.shape[1:], source["image"].shape[1:]))
        area = image[:, :height, :width]  # a view
        area.copy_(torch.where(covered[:height, :width], source["image"][:, :height, :width], area))
        kept = {key: value for key, value in record.items() if key not in FEDERATED_LISTS}
        hidden = self._hide(record["instances"], covered)
        return {**kept, "image": image, "instances": Instances.cat([hidden, pasted])}

    def _cut(self, objects: Instances, size: tuple[int, int]) -> Instances:
        """The objects in an image of another size, without those of which too little remains."""
        masks = _bitmasks(objects)
        cut = torch.zeros(len(masks), *size, dtype=torch.bool)
        height, width = (min(sides) for sides in zip(size, objects.image_size))
        cut[:, :height, :width] = masks[:, :height, :width]
        pasted = self._visible(objects, masks, cut)
        return pasted[_areas(pasted.gt_masks.tensor) > 0]  # a tiny polygon may have no pixel

    def _hide(self, objects: Instances, covered: Tensor) -> Instances:
        """The objects under the (H, W) covered pixels, without those of which too little remains."""
        masks = _bitmasks(objects)
        return self._visible(objects, masks, masks & ~covered)

    def _visible(self, objects: Instances, before: Tensor, after: Tensor) -> Instances:
        """
        Args:
            objects: N objects.
            before: (N, H, W) bool, their masks.
            after: (N, H', W') bool, the parts that remain, with the same upper left corner.
        """
        area, boxes = _areas(after), objects.gt_boxes.tensor.clone()
        shift = torch.zeros(len(objects))
        is_whole = area == _areas(before)
        changed = torch.nonzero(~is_whole).flatten()
        boxes[changed] = _boxes(after[changed])
        shift[changed] = (boxes[changed] - _boxes(before[changed])).abs().amax(1)
        result = Instances(
            tuple(after.shape[1:]), gt_boxes=Boxes(boxes), gt_classes=objects.gt_classes, gt_masks=BitMasks(after)
        )
        seen = (area > 0) & ((area > self.min_area) | (shift <= self.max_box_shift))
        return result[is_whole | seen]


def build_copy_paste(cfg, dataset_dicts) -> CopyPaste | None:
    """
    Args:
        cfg: Detectron2's config with balanced_lvis's keys.
        dataset_dicts: the training images, as the loader has them.

    Returns:
        None if not ``INPUT.COPY_PASTE.ENABLED``.

    Raises:
        InputError: as :func:`check_copy_paste`, or if the annotations have no masks.
    """
    if not cfg.INPUT.COPY_PASTE.ENABLED:
        return None
    check_copy_paste(cfg)
    made = CopyPaste(dataset_dicts, len(class_names_from_config(cfg)), **_options(cfg))
    record = dataset_dicts[made.first_image()]
    if not all("segmentation" in annotation for annotation in record["annotations"]):
        raise InputError(
            f"INPUT.COPY_PASTE.ENABLED is True, but annotations of {record['file_name']} have no 'segmentation'; set "
            "it to False, or train on a dataset with masks."
        )
    return made


def check_copy_paste(cfg) -> None:
    """
    Raises:
        InputError: if objects can't be pasted with this config.
    """
    node = cfg.INPUT.COPY_PASTE
    if not node.ENABLED:
        return
    _check_options(**_options(cfg))
    sampler = cfg.DATALOADER.SAMPLER_TRAIN
    conflicts = {
        "MODEL.MASK_ON False": not cfg.MODEL.MASK_ON,
        "MODEL.KEYPOINT_ON True": cfg.MODEL.KEYPOINT_ON,
        "MODEL.LOAD_PROPOSALS True": cfg.MODEL.LOAD_PROPOSALS,
        f"DATALOADER.SAMPLER_TRAIN {sampler!r}": sampler not in resumable_sampler_names(),
    }
    for words, is_set in conflicts.items():
        if is_set:
            raise InputError(f"INPUT.COPY_PASTE.ENABLED is True, which is not supported with {words}; change one.")
    check_counts_are_known(cfg)


def check_counts_are_known(cfg) -> None:
    """
    Raises:
        InputError: if the class prior should count the images that are shown, and objects are pasted on them.
    """
    if cfg.INPUT.COPY_PASTE.ENABLED and cfg.MODEL.CLASS_PRIOR.SAMPLED:
        raise InputError(
            "MODEL.CLASS_PRIOR.SAMPLED is True, but the number of objects that INPUT.COPY_PASTE pastes is not known in "
            "advance; set it to False, for the counts of the dataset, or INPUT.COPY_PASTE.ENABLED to False."
        )


def _options(cfg) -> dict:
    return {name: value for name, value in chosen_options(cfg.INPUT, "copy_paste").items() if name != "enabled"}


def _check_options(probability, max_objects, rarity_power, min_area, max_box_shift) -> None:
    valid = {
        "PROBABILITY": (probability, 0 <= probability <= 1, "from 0 to 1"),
        "MAX_OBJECTS": (max_objects, max_objects >= 1, "1 or more"),
        "RARITY_POWER": (rarity_power, 0 <= rarity_power < math.inf, "0 or more"),
        "MIN_AREA": (min_area, min_area >= 0, "0 or more"),
        "MAX_BOX_SHIFT": (max_box_shift, max_box_shift >= 0, "0 or more"),
    }
    for name, (value, is_valid, wanted) in valid.items():
        if not is_valid:
            raise InputError(f"INPUT.COPY_PASTE.{name} is {value}; it must be {wanted}.")


def _cumulative(lists: ClassLists, log_weight: np.ndarray) -> np.ndarray:
    """(N,) cumulative probabilities of the images."""
    starts, ends = lists.first[:-1], lists.first[1:]
    # The instances of an image end where those of the next image begin, as reduceat expects.
    occupied = starts < ends
    if not occupied.any():
        raise InputError(
            "INPUT.COPY_PASTE.ENABLED is True, but no training image has objects to paste; set it to False."
        )
    largest = np.maximum.reduceat(log_weight[lists.classes], starts[occupied])
    weights = np.zeros(lists.num_images)
    weights[occupied] = np.exp(largest - largest.max())
    cumulative = np.cumsum(weights)
    return cumulative / cumulative[-1]


def _bitmasks(objects: Instances) -> Tensor:
    """(N, H, W) bool."""
    if not objects.has("gt_masks") and not len(objects):
        return torch.zeros(0, *objects.image_size, dtype=torch.bool)
    masks = objects.gt_masks
    if not isinstance(masks, BitMasks):
        masks = BitMasks.from_polygon_masks(masks, *objects.image_size)
    return masks.tensor


# NumPy reduces boolean arrays ten times as quickly as torch.


def _areas(masks: Tensor) -> Tensor:
    """(N,) numbers of pixels of (N, H, W) masks."""
    return torch.tensor([np.count_nonzero(mask) for mask in masks.numpy()], dtype=torch.int64)


def _boxes(masks: Tensor) -> Tensor:
    """(N, 4) x0, y0, x1, y1 around the pixels of (N, H, W) masks; zeros for an empty one."""
    boxes = torch.zeros(len(masks), 4)
    for box, mask in zip(boxes, masks.numpy()):
        columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
        if len(columns):
            box[:] = torch.tensor([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    return boxes
