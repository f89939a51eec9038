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
from detectron2.config import get_cfg
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, BoxMode

from balanced_lvis.data.dataset_files import datasets_root
from balanced_lvis.data.images.image_files import read_pil_image
from balanced_lvis.data.images.image_transforms import augment, channels_first
from balanced_lvis.data.loader import KEPT_BYTES
from balanced_lvis.data.mapper import ImageMapper
from balanced_lvis.utils.errors import InputError
from balanced_lvis.utils.memory_allocator import keep_freed_memory

from .measure import Options, in_fresh_process, row

_SCALES = (640, 672, 704, 736, 768, 800)  # of the shorter side, as in the LVIS configs
# Mean numbers of objects of an image: of LVIS-1.0 train, and of its crowded images.
_DENSITIES = (12.7, 120.0)
_FORMATS = ("polygon", "bitmask")
_SIDE = 1024  # of the crops of large-scale jittering
_PHOTOGRAPHS = 24

Build = Callable[[type[DatasetMapper]], DatasetMapper]


def mapper(options: Options) -> list[dict]:
    """
    Processor time for one pass over the photographs, with the images per second of one core in the description.

    Each round measures both mappers in processes of their own, as the workers of a loader are; those of balanced_lvis
    keep freed memory. The last rows have the parts of balanced_lvis's time in the first row. Decoding and resize are
    Pillow's.
    """
    folder = str(options.coco or datasets_root() / "coco")
    identical = {work: _are_identical(work, folder) for work in WORKS}
    passes: dict[bool, list[dict]] = {False: [], True: []}
    for _, native in itertools.product(range(options.rounds), (False, True)):
        found = in_fresh_process("benchmarks.mapping:seconds_of_passes", {"folder": folder, "native": native})
        passes[native].append(found["seconds"])
    rows = []
    for work in WORKS:
        seconds = [[found[work] for found in passes[native]] for native in (False, True)]
        rates = [_PHOTOGRAPHS / statistics.median(each) for each in seconds]
        size = f"{_PHOTOGRAPHS} photographs, {work}: {rates[0]:.1f} and {rates[1]:.1f} images/s"
        rows.append(row("mapper", size, seconds[0], seconds[1], None, identical[work]))
    parts = [name for name in passes[True][0] if name not in WORKS]
    return rows + [
        row("mapper", f"first row, of which {name}", [], [found[name] for found in passes[True]], None, None)
        for name in parts
    ]


def seconds_of_passes(job: dict) -> dict:
    """
    Measure one pass of a mapper for each of :data:`WORKS`. A pass over the first ones warms up.

    Args:
        job: "folder" of the photographs, and "native": whether the mapper is that of balanced_lvis.

    Returns:
        "seconds": seconds of processor time by work, and by part of the first work for balanced_lvis.
    """
    if job["native"]:
        keep_freed_memory(most=KEPT_BYTES)
    kind = ImageMapper if job["native"] else DatasetMapper
    seconds: dict[str, float] = {}
    for work, (density, build) in WORKS.items():
        records, mapped_by = photographs(Path(job["folder"]), density), build(kind)
        if not seconds:
            _seconds_of_pass(mapped_by, records)
            parts = _seconds_of_parts(records, mapped_by) if job["native"] else {}
        seconds[work] = _seconds_of_pass(mapped_by, records)
    return {"seconds": seconds | parts}


def _are_identical(work: str, folder: str) -> bool:
    density, build = WORKS[work]
    mappers = [build(DatasetMapper), build(ImageMapper)]
    records = photographs(Path(folder), density)
    return all(are_equal(*(_mapped(one, record, 0) for one in mappers)) for record in records)


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


def _resized_by_shorter_side(mask_format: str) -> Build:
    """The augmentations of the yaml configs for LVIS."""
    config = get_cfg()
    config.MODEL.MASK_ON = True
    config.INPUT.MIN_SIZE_TRAIN = _SCALES
    config.INPUT.MASK_FORMAT = mask_format
    return lambda kind: kind(config, True)


def _jittered(kind: type[DatasetMapper]) -> DatasetMapper:
    """The augmentations of the LazyConfigs for LVIS."""
    return kind(
        is_train=True,
        augmentations=[
            T.RandomFlip(horizontal=True),
            T.ResizeScale(min_scale=0.1, max_scale=2.0, target_height=_SIDE, target_width=_SIDE),
            T.FixedSizeCrop(crop_size=(_SIDE, _SIDE), pad=False),
        ],
        image_format="RGB",
        use_instance_mask=True,
        recompute_boxes=True,
    )


# Mean number of objects of an image, and the function that builds a mapper of a class.
WORKS: dict[str, tuple[float, Build]] = {
    f"{density:g} objects each, {mask_format}": (density, _resized_by_shorter_side(mask_format))
    for density, mask_format in itertools.product(_DENSITIES, _FORMATS)
} | {f"{_DENSITIES[0]:g} objects each, polygon, large-scale jittering": (_DENSITIES[0], _jittered)}


def _mapped(mapped_by: Callable[[dict], dict], record: dict, seed: int) -> dict:
    np.random.seed(seed)
    return mapped_by(record)


def _seconds_of_pass(mapped_by: Callable[[dict], dict], records: list[dict]) -> float:
    start = time.process_time()
    for seed, record in enumerate(records):
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


def _seconds_of_parts(records: list[dict], mapped_by: ImageMapper) -> dict[str, float]:
    """Processor time of each part of a pass of ``mapped_by``."""
    seconds = dict.fromkeys(("decoding", "resize and flip", "pixels to a tensor", "objects"), 0.0)
    for seed, record in enumerate(records):
        np.random.seed(seed)
        marks = [time.process_time()]
        image = read_pil_image(record["file_name"])
        marks.append(time.process_time())
        image, transforms = augment(image, mapped_by.augmentations.augs)
        marks.append(time.process_time())
        channels_first(image, mapped_by.image_format)
        marks.append(time.process_time())
        mapped_by._instances(record["annotations"], transforms, (image.height, image.width))
        marks.append(time.process_time())
        for name, start, end in zip(seconds, marks, marks[1:]):
            seconds[name] += end - start
    return seconds
