"""
Start-up time: from LVIS annotations to images and repeat factors, with Detectron2's loader and with balanced_lvis.

The annotations are synthetic, with the class frequencies, number of objects per image and two-decimal coordinates of
LVIS-1.0. The file is in the page cache for all contenders, so that they wait for nothing. Times are processor times,
which other processes hardly change.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from detectron2.data import DatasetFromList
from detectron2.data.datasets.lvis import load_lvis_json
from detectron2.data.datasets.lvis_v1_category_image_count import LVIS_CATEGORY_IMAGE_COUNT
from detectron2.data.samplers import RepeatFactorTrainingSampler

from balanced_lvis.data.dataset_files import datasets_root
from balanced_lvis.data.index import LVISRecords, open_index
from balanced_lvis.data.index.array_file import ArrayFile
from balanced_lvis.data.samplers import class_repeat_factors, image_repeat_factors
from balanced_lvis.priors import ClassPrior
from balanced_lvis.utils.errors import InputError
from balanced_lvis.utils.io import replacing

from .measure import LONG_SECONDS, Options, in_fresh_process, row

_CLASSES = len(LVIS_CATEGORY_IMAGE_COUNT)
_ANNOTATIONS_PER_IMAGE = 12.7
_POINTS = (6, 34)  # points of a polygon, for a file of about 630 MB
_THRESHOLD = 0.001  # of repeat factor sampling, as in LVIS configs
_IMAGE_ROOT = "coco/"


def startup(options: Options) -> list[dict]:
    """
    The first start, which builds the index, later starts, and the cost of each further rank.

    The last row has the time of a rank that starts while another one has the index mapped, and its unshared memory
    after it has read all records. For stock, it is the unshared memory of a rank that is ready to train, which is less
    than its peak.
    """
    path = synthetic_annotations(options.annotations)
    job = {"json_file": str(path)}
    runs: dict[str, list[dict]] = {"stock": [], "first": [], "later": [], "further": []}
    for _ in range(options.rounds):
        runs["stock"].append(_measure(start_stock, job))
        Path(f"{path}.index").unlink(missing_ok=True)
        runs["first"].append(_measure(start_native, job))
        runs["later"].append(_measure(start_native, job))
        pages = _touch_all(_index(path))
        runs["further"].append(_measure(start_native, {**job, "read_all": True}))
        del pages
        if runs["stock"][-1]["seconds"] > LONG_SECONDS:
            break
    identical = _measure(compare, job)["identical"]
    size = f"{options.annotations:,} annotations, {path.stat().st_size / 1e6:.0f} MB, "
    rows = [
        _row(size + "first start", runs["stock"], runs["first"], "peak_mb", identical),
        _row(size + "later starts", runs["stock"], runs["later"], "peak_mb", identical),
        _row(size + "each further rank", runs["stock"], runs["further"], "own_mb", identical),
    ]
    return rows


def _measure(function, job: dict) -> dict:
    return in_fresh_process(f"{__name__}:{function.__name__}", job)


def _row(size: str, stock: list[dict], native: list[dict], memory: str, identical: bool) -> dict:
    peaks = tuple(max(run[memory] for run in runs) for runs in (stock, native))
    times = [[run["seconds"] for run in runs] for runs in (stock, native)]
    return row("startup", size, times[0], times[1], peaks, identical)


def start_stock(job: dict) -> dict:
    """Detectron2: each rank parses the file, counts the classes and serialises the images."""
    before, start = _own_mb(), time.process_time()
    records = load_lvis_json(job["json_file"], _IMAGE_ROOT)
    factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(records, _THRESHOLD)
    images = DatasetFromList(records, copy=False)
    del records
    seconds = time.process_time() - start
    return {"seconds": seconds, "own_mb": _own_mb() - before, "images": len(images), "sum": float(factors.sum())}


def start_native(job: dict) -> dict:
    """balanced_lvis: the same from the index. With ``read_all``, all records are read, as in an epoch."""
    before, start = _own_mb(), time.process_time()
    images, factors = _native(job["json_file"])
    seconds = time.process_time() - start
    if job.get("read_all"):
        for index in range(len(images)):
            images[index]
    return {"seconds": seconds, "own_mb": _own_mb() - before, "images": len(images), "sum": float(factors.sum())}


def compare(job: dict) -> dict:
    """Whether both have the same images, with the same keys, values and types, and the same repeat factors."""
    records = load_lvis_json(job["json_file"], _IMAGE_ROOT)
    images, factors = _native(job["json_file"])
    stock_factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(records, _THRESHOLD)
    # As text, because 1 == 1.0.
    same = len(records) == len(images) and all(
        json.dumps(record) == json.dumps(images[index]) for index, record in enumerate(records)
    )
    return {"identical": same and torch.equal(factors, stock_factors)}


def _index(json_file: str | os.PathLike) -> ArrayFile:
    index = open_index(json_file)
    if index is None:
        raise InputError(
            f"The index of {json_file} was not built; see the warnings above, and unset BALANCED_LVIS_INDEX."
        )
    return index


def _native(json_file: str) -> tuple[LVISRecords, torch.Tensor]:
    images = LVISRecords(_index(json_file), _IMAGE_ROOT)
    prior = ClassPrior.from_dataset_dicts(images, map(str, range(_CLASSES)))
    return images, image_repeat_factors(images, class_repeat_factors(prior, _THRESHOLD))


def _own_mb() -> float:
    """Unshared memory of this process in MB."""
    with open("/proc/self/smaps_rollup", encoding="ascii") as file:
        return sum(map(int, re.findall(r"^Private_\w+: +(\d+) kB$", file.read(), re.MULTILINE))) / 1024


def _touch_all(index: ArrayFile) -> ArrayFile:
    """Map all pages in this process, like another rank that has read all records."""
    for array in index.arrays.values():
        array.view(np.uint8)[::1024].sum()
    return index


def synthetic_annotations(annotations: int) -> Path:
    """A JSON file in LVIS format in the datasets folder, created if needed. The same number gives the same bytes."""
    path = datasets_root() / f"startup_{annotations}.json"
    if not path.exists():
        os.makedirs(path.parent, exist_ok=True)
        with replacing(path, "wb+") as file:
            for piece in _content(annotations):
                file.write(piece.encode())
    return path.absolute()


def _content(annotations: int) -> Iterator[str]:
    rng = np.random.default_rng(0)
    num_images = max(round(annotations / _ANNOTATIONS_PER_IMAGE), 1)
    image_ids = rng.permutation(num_images * 5)[:num_images] + 1  # with gaps, as in COCO
    categories = [
        {"id": c["id"], "name": f"class_{c['id']}", "image_count": c["image_count"]} for c in LVIS_CATEGORY_IMAGE_COUNT
    ]
    yield f'{{"info": {{}}, "categories": {json.dumps(categories)}, "images": ['
    yield ", ".join(json.dumps(_image(int(image_id), rng)) for image_id in image_ids)
    yield '], "annotations": ['
    of_image = np.sort(rng.integers(num_images, size=annotations))  # grouped by image, as in LVIS
    frequency = np.array([c["image_count"] for c in LVIS_CATEGORY_IMAGE_COUNT], float)
    classes = rng.choice(_CLASSES, annotations, p=frequency / frequency.sum()) + 1
    for i, (image, category) in enumerate(zip(image_ids[of_image].tolist(), classes.tolist())):
        yield ("" if i == 0 else ", ") + json.dumps(_annotation(i + 1, image, category, rng))
    yield "]}"


def _image(image_id: int, rng: np.random.Generator) -> dict:
    height, width = [(480, 640), (640, 480), (427, 640)][rng.integers(3)]
    return {
        "id": image_id,
        "height": height,
        "width": width,
        "coco_url": f"http://images.cocodataset.org/train2017/{image_id:012d}.jpg",
        "neg_category_ids": (rng.choice(_CLASSES, 4, replace=False) + 1).tolist(),
        "not_exhaustive_category_ids": (rng.choice(_CLASSES, int(rng.integers(3))) + 1).tolist(),
    }


def _annotation(annotation_id: int, image_id: int, category: int, rng: np.random.Generator) -> dict:
    x, y, width, height = np.round(rng.random(4) * (300, 200, 300, 200), 2).tolist()
    polygons = [
        np.round(rng.random((rng.integers(*_POINTS), 2)) * (width, height) + (x, y), 2).ravel().tolist()
        for _ in range(1 + (rng.random() < 0.1))
    ]
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": category,
        "bbox": [x, y, width, height],
        "area": round(width * height / 2, 2),
        "segmentation": polygons,
    }
