"""
Loading of training images: from a file and its annotations to the record that a model trains on, in one process.

The objects are those of the photographs and, up to the wanted number, of the next ones, scaled to the image.
"""

from __future__ import annotations

import itertools
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetMapper
from detectron2.structures import BitMasks, BoxMode

from balanced_lvis.data.dataset_files import datasets_root
from balanced_lvis.data.images.image_files import read_pil_image
from balanced_lvis.data.images.image_transforms import channels_first
from balanced_lvis.data.mapper import ImageMapper
from balanced_lvis.utils.errors import InputError

from .measure import Options, row

_SCALES = (640, 672, 704, 736, 768, 800)  # of the shorter side, as in the LVIS configs
# Mean numbers of objects of an image: of LVIS-1.0 train, and of its crowded images.
_DENSITIES = (12.7, 120.0)
_FORMATS = ("polygon", "bitmask")
_PHOTOGRAPHS = 24


def mapper(options: Options) -> list[dict]:
    """
    Processor time for one pass over the photographs, with the images per second of one core in the description.

    The last rows have the parts that any mapper with these pixels needs: Pillow's decoder and its resize.
    """
    folder = options.coco or datasets_root() / "coco"
    rows = []
    for density, mask_format in itertools.product(_DENSITIES, _FORMATS):
        records = photographs(folder, density)
        config = _config(mask_format)
        mappers = [DatasetMapper(config, True), ImageMapper(config, True)]
        seconds: list[list[float]] = [[], []]
        for _ in range(options.rounds):
            # Neighbouring measurements of the two, image by image, so that other processes disturb both alike.
            passes = [0.0, 0.0]
            for seed, record in enumerate(records):
                for which, one in enumerate(mappers):
                    passes[which] += _seconds(one, record, seed)
            for found, total in zip(seconds, passes):
                found.append(total)
        rates = [len(records) / statistics.median(found) for found in seconds]
        size = f"{len(records)} photographs, {density:g} objects each, {mask_format}: "
        size += f"{rates[0]:.1f} and {rates[1]:.1f} images/s"
        identical = all(are_equal(*(_mapped(one, record, 0) for one in mappers)) for record in records)
        rows.append(row("mapper", size, seconds[0], seconds[1], None, identical))
    return rows + _floor(photographs(folder, 0), options.rounds)


def photographs(folder: Path, density: float) -> list[dict]:
    """
    Records in Detectron2's standard format.

    Args:
        folder: a folder with ``annotations/instances_train2017.json`` and ``train2017``, as of COCO.
        density: mean number of objects of an image.

    Raises:
        InputError: if there is no such folder.
    """
    path = folder / "annotations" / "instances_train2017.json"
    if not path.is_file():
        raise InputError(f"{path} doesn't exist; give a folder with COCO's annotations and train2017 with --coco.")
    content = json.loads(path.read_text(encoding="utf-8"))
    images = content["images"][:_PHOTOGRAPHS]
    sizes = {image["id"]: (image["width"], image["height"]) for image in images}
    objects = [one for one in content["annotations"] if one["image_id"] in sizes and not one["iscrowd"]]
    taken = itertools.cycle(objects)
    counts = np.diff(np.rint(np.arange(len(images) + 1) * density).astype(int)).tolist()
    return [
        {
            "file_name": str(folder / "train2017" / image["file_name"]),
            "height": image["height"],
            "width": image["width"],
            "image_id": image["id"],
            "annotations": [_object(one, sizes, image) for one in itertools.islice(taken, count)],
        }
        for image, count in zip(images, counts)
    ]


def _object(one: dict, sizes: dict[int, tuple[int, int]], image: dict) -> dict:
    scale = np.array([image["width"], image["height"]]) / sizes[one["image_id"]]

    def scaled(numbers: Sequence[float]) -> list[float]:
        return np.round(np.reshape(numbers, (-1, 2)) * scale, 2).ravel().tolist()

    return {
        "bbox": scaled(one["bbox"]),
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": one["category_id"],
        "segmentation": [scaled(polygon) for polygon in one["segmentation"]],
    }


def _config(mask_format: str) -> CfgNode:
    config = get_cfg()
    config.MODEL.MASK_ON = True
    config.INPUT.MIN_SIZE_TRAIN = _SCALES
    config.INPUT.MASK_FORMAT = mask_format
    return config


def _mapped(mapped_by: Callable[[dict], dict], record: dict, seed: int) -> dict:
    np.random.seed(seed)
    return mapped_by(record)


def _seconds(mapped_by: Callable[[dict], dict], record: dict, seed: int) -> float:
    start = time.process_time()
    _mapped(mapped_by, record, seed)
    return time.process_time() - start


def are_equal(one: dict, other: dict) -> bool:
    """Whether two training records have the same keys, and bit-identical values of the same types."""
    if list(one) != list(other) or not _same(one["image"], other["image"]):
        return False
    left, right = one["instances"], other["instances"]
    if left.image_size != right.image_size or list(left.get_fields()) != list(right.get_fields()):
        return False
    if not _same(left.gt_boxes.tensor, right.gt_boxes.tensor) or not _same(left.gt_classes, right.gt_classes):
        return False
    if not left.has("gt_masks"):
        return True
    if isinstance(right.gt_masks, BitMasks):
        return _same(left.gt_masks.tensor, right.gt_masks.tensor)
    polygons = [[list(map(torch.from_numpy, mask)) for mask in of.gt_masks.polygons] for of in (left, right)]
    return [len(mask) for mask in polygons[0]] == [len(mask) for mask in polygons[1]] and all(
        _same(a, b) for a, b in zip(*(itertools.chain.from_iterable(of) for of in polygons))
    )


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)


def _floor(records: list[dict], rounds: int) -> list[dict]:
    """Processor time of the parts of balanced_lvis's mapper for images, at the middle scale."""
    parts: dict[str, list[float]] = {"decoding": [], "resize": [], "pixels to a tensor": []}
    for _ in range(rounds):
        spent = dict.fromkeys(parts, 0.0)
        for record in records:
            marks = [time.process_time()]
            image = read_pil_image(record["file_name"])
            marks.append(time.process_time())
            factor = statistics.median_low(_SCALES) / min(image.size)
            image = image.resize((round(image.width * factor), round(image.height * factor)), 2)
            marks.append(time.process_time())
            channels_first(image, "BGR")
            marks.append(time.process_time())
            for name, start, end in zip(parts, marks, marks[1:]):
                spent[name] += end - start
        for name, seconds in spent.items():
            parts[name].append(seconds)
    return [
        row("mapper", f"{len(records)} photographs, of which {name}", [], seconds, None, None)
        for name, seconds in parts.items()
    ]
