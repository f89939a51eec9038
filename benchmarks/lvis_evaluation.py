"""
LVIS metrics from stored detections, compared with ``lvis`` on the dicts of Detectron2's evaluator.

The data is synthetic, with the densities of LVIS val: 1,203 categories with the image counts of LVIS-1.0 train; 12
objects of 3.5 categories and 9 negative categories per image; objects as polygons of 34 points. An image has 300
detections. 30% are on objects, displaced, duplicated and sometimes with a wrong class; 5% are of negative categories;
the rest is anywhere, with categories drawn by the square root of their image counts. Scores are distributed
exponentially. A third of the detections is of categories that are annotated in their image; ``lvis`` drops the others
after loading them.

Both contenders read the same files in new processes. Not timed: imports, loading the ground truth, which both do with
``lvis``, and building the dicts for ``lvis``. Peak memory is that of the process.
"""

from __future__ import annotations

import logging
import math
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
from detectron2.data.datasets.lvis_v1_category_image_count import LVIS_CATEGORY_IMAGE_COUNT
from pycocotools import mask as mask_util

from balanced_lvis.evaluation.backends import evaluate_detections, evaluate_tasks
from balanced_lvis.evaluation.detection_store import Detections, DetectionWriter
from balanced_lvis.evaluation.lvis_api import IOU_TYPES, LVIS, METRICS, LVISEval, LVISResults
from balanced_lvis.priors import COMMON_MAX_IMAGES, RARE_MAX_IMAGES
from balanced_lvis.utils.io import write_json

from .measure import LONG_SECONDS, Options, in_fresh_process, row

HEIGHT, WIDTH = 480, 640
DETECTIONS_PER_IMAGE = 300
SHARE_ON_OBJECTS, SHARE_ABSENT = 0.3, 0.05
POLYGON_POINTS = 34
VAL_IMAGES = 19_809


def evaluate(options: Options) -> list[dict]:
    """Boxes and masks at a tenth and all of ``options.images``."""
    rows = []
    for images in sorted({max(1, options.images // 10), options.images}):
        with tempfile.TemporaryDirectory() as folder:
            rows += rows_of(folder, images, options.rounds)
    return rows


def rows_of(folder: str, images: int, rounds: int) -> list[dict]:
    """Boxes and masks of ``images`` images, with data created in ``folder``."""
    job = {"folder": folder, "images": images}
    in_fresh_process(f"{__name__}:make_data", job)  # not in this process, whose peak memory its children inherit
    return [_compare({**job, "iou_type": iou_type}, rounds) for iou_type in IOU_TYPES]


def val(options: Options) -> list[dict]:
    """A complete evaluation of LVIS val's size by balanced_lvis, from reading the annotations to the metrics."""
    with tempfile.TemporaryDirectory() as folder:
        job = {"folder": folder, "images": VAL_IMAGES}
        in_fresh_process(f"{__name__}:make_data", job)
        found = in_fresh_process(f"{__name__}:run_whole", job)
    size = f"{VAL_IMAGES} images x {DETECTIONS_PER_IMAGE} detections, annotations and {' and '.join(IOU_TYPES)}"
    return [row("val", size, [], [found["seconds"]], (None, found["peak_mb"]), identical=None)]


def run_whole(job: dict) -> dict:
    """A complete evaluation in this process."""
    start = time.perf_counter()
    lvis_gt, detections = load_data(job)
    found = list(evaluate_tasks(lvis_gt, detections, IOU_TYPES))
    return {"seconds": time.perf_counter() - start, "tasks": [task for task, *_ in found]}


def floor(options: Options) -> list[dict]:
    """
    Lower bound of mask evaluation with pycocotools: its C code alone, compared with the whole evaluation of ``lvis``.

    Only polygons and RLEs of the same image and category are rasterised, decoded and intersected.
    """
    with tempfile.TemporaryDirectory() as folder:
        job = {"folder": folder, "images": max(1, options.images // 5), "iou_type": "segm"}
        in_fresh_process(f"{__name__}:make_data", job)
        stock = in_fresh_process(f"{__name__}:run_stock", job)
        found = in_fresh_process(f"{__name__}:run_floor", job)
    size = (
        f"{job['images']} images: {found['polygons']:,} objects drawn, {found['rles']:,} RLEs of {found['bytes']:,} "
        f"bytes decoded, {found['pairs']:,} pairs intersected"
    )
    return [row("floor", size, [stock["processor_seconds"]], [found["seconds"]], (None, None), identical=None)]


def run_floor(job: dict) -> dict:
    """pycocotools' C code on the masks of the same image and category; seconds of processor time."""
    lvis_gt, detections = load_data(job)
    objects, found = defaultdict(list), defaultdict(list)
    for annotation in lvis_gt.anns.values():
        objects[annotation["image_id"], annotation["category_id"]].append(annotation["segmentation"])
    for record in (record for batch in detections.records() for record in batch):
        key = record["image_id"], record["category_id"]
        if key in objects:
            found[key].append(record["segmentation"])
    counts = {"polygons": 0, "rles": 0, "bytes": 0, "pairs": 0, "seconds": 0.0}
    for key, polygons in objects.items():
        rles = found[key]
        start = time.process_time()
        masks = [mask_util.merge(mask_util.frPyObjects(polygon, HEIGHT, WIDTH)) for polygon in polygons]
        if rles:
            mask_util.iou(rles, masks, [0] * len(masks))
        counts["seconds"] += time.process_time() - start
        counts["polygons"] += len(masks)
        counts["rles"] += len(rles)
        counts["bytes"] += sum(len(rle["counts"]) for rle in rles)
        counts["pairs"] += len(rles) * len(masks)
    return counts


def _compare(job: dict, rounds: int) -> dict:
    stock: list[dict] = []
    native: list[dict] = []
    while len(stock) < rounds and (not stock or stock[-1]["seconds"] < LONG_SECONDS):
        stock.append(in_fresh_process(f"{__name__}:run_stock", job))
        native.append(in_fresh_process(f"{__name__}:run_native", job))
    metrics = [result["metrics"] for result in (*stock, *native)]
    peaks = tuple(max(result["peak_mb"] for result in found) for found in (stock, native))
    size = f"{job['images']} images x {DETECTIONS_PER_IMAGE} detections, {job['iou_type']}"
    seconds = [[result["seconds"] for result in found] for found in (stock, native)]
    return row("evaluate", size, seconds[0], seconds[1], peaks, identical=all(found == metrics[0] for found in metrics))


def run_stock(job: dict) -> dict:
    """``lvis`` on dicts, as Detectron2 calls it."""
    lvis_gt, detections = load_data(job)
    results = [record for batch in detections.records() for record in batch]
    del detections
    if job["iou_type"] == "segm":
        for result in results:
            del result["bbox"]
    start, processor = time.perf_counter(), time.process_time()
    evaluation = LVISEval(lvis_gt, LVISResults(lvis_gt, results), job["iou_type"])
    evaluation.run()
    seconds, processor = time.perf_counter() - start, time.process_time() - processor
    found = evaluation.get_results()
    # -1 means no ground truth, as NaN in balanced_lvis; None, unlike NaN, equals itself.
    metrics = [100 * float(found[name]) if found[name] > -1 else None for name in METRICS]
    return {"seconds": seconds, "processor_seconds": processor, "metrics": metrics}


def run_native(job: dict) -> dict:
    """The fast backend on the stored arrays."""
    lvis_gt, detections = load_data(job)
    start = time.perf_counter()
    metrics, _ = evaluate_detections(lvis_gt, detections, job["iou_type"], "fast")
    seconds = time.perf_counter() - start
    values = [metrics[name] for name in METRICS]
    return {"seconds": seconds, "metrics": [None if math.isnan(value) else value for value in values]}


def load_data(job: dict) -> tuple[LVIS, Detections]:
    """Ground truth and detections of :func:`make_data`."""
    logging.getLogger("lvis").setLevel(logging.ERROR)  # it warns about every list of results
    folder = Path(job["folder"])
    return LVIS(str(folder / "annotations.json")), Detections(folder / "detections")


def make_data(job: dict) -> dict:
    """Write ground truth and detections of ``job["images"]`` images to ``job["folder"]``."""
    rng = np.random.default_rng(0)
    counts = np.array([c["image_count"] for c in sorted(LVIS_CATEGORY_IMAGE_COUNT, key=lambda c: c["id"])])
    share = np.sqrt(counts) / np.sqrt(counts).sum()
    content = {"images": [], "annotations": [], "categories": _categories(counts)}
    writer = DetectionWriter(Path(job["folder"], "detections"))
    for image_id in range(1, job["images"] + 1):
        image, boxes, classes = make_image(rng, image_id, share)
        content["images"].append(image)
        for annotation in _annotations(rng, image_id, boxes, classes):
            content["annotations"].append({"id": len(content["annotations"]) + 1, **annotation})
        writer.write(image_id, *make_detections(rng, boxes, classes, image, share))
    writer.close()
    write_json(Path(job["folder"], "annotations.json"), content)
    return {}


def _categories(image_counts: np.ndarray) -> list[dict]:
    groups = np.where(image_counts <= RARE_MAX_IMAGES, "r", np.where(image_counts <= COMMON_MAX_IMAGES, "c", "f"))
    return [
        {"id": index + 1, "name": f"category {index}", "frequency": str(group), "image_count": int(count)}
        for index, (group, count) in enumerate(zip(groups, image_counts))
    ]


def make_image(rng, image_id: int, share: np.ndarray) -> tuple[dict, np.ndarray, np.ndarray]:
    """An image, the (G, 4) boxes of its objects and their (G,) class indices."""
    drawn = rng.choice(len(share), 14, replace=False, p=share)
    present, absent = np.split(drawn[: rng.integers(10, 15)], [rng.integers(1, 7)])
    image = {
        "id": image_id,
        "height": HEIGHT,
        "width": WIDTH,
        "neg_category_ids": (absent + 1).tolist(),
        "not_exhaustive_category_ids": (present[rng.random(len(present)) < 0.1] + 1).tolist(),
    }
    classes = rng.choice(present, rng.poisson(11) + 1)
    return image, _boxes(rng, len(classes)), classes


def _boxes(rng, number: int) -> np.ndarray:
    """(N, 4) x, y, w, h inside the image: sizes log-uniform from 8 to 300 pixels."""
    sizes = np.exp(rng.uniform(np.log(8), np.log(300), (number, 2)))
    return np.concatenate([rng.random((number, 2)) * ((WIDTH, HEIGHT) - sizes), sizes], axis=1)


def _ellipses(rng, boxes: np.ndarray) -> list[list[float]]:
    """A polygon per box: an irregular ellipse."""
    angles = np.linspace(0, 2 * np.pi, POLYGON_POINTS, endpoint=False)
    radii = 0.5 * rng.uniform(0.8, 1, (len(boxes), POLYGON_POINTS, 1))
    points = radii * np.stack([np.cos(angles), np.sin(angles)], axis=1) + 0.5
    points = boxes[:, None, :2] + points * boxes[:, None, 2:]
    return points.reshape(len(boxes), -1).round(2).tolist()


def _annotations(rng, image_id: int, boxes: np.ndarray, classes: np.ndarray) -> list[dict]:
    polygons = _ellipses(rng, boxes)
    areas = mask_util.area(mask_util.frPyObjects(polygons, HEIGHT, WIDTH)).tolist()
    return [
        {"image_id": image_id, "category_id": index + 1, "bbox": box, "area": float(area), "segmentation": [polygon]}
        for index, box, area, polygon in zip(classes.tolist(), boxes.round(2).tolist(), areas, polygons)
    ]


def make_detections(rng, boxes, classes, image: dict, share):
    """(N, 4) boxes, (N,) scores, (N,) class indices and N RLEs."""
    on_objects = round(SHARE_ON_OBJECTS * DETECTIONS_PER_IMAGE)
    absent = round(SHARE_ABSENT * DETECTIONS_PER_IMAGE)
    which = rng.integers(len(classes), size=on_objects)
    moved = boxes[which] + rng.normal(0, 0.12, (on_objects, 4)) * np.tile(boxes[which, 2:], 2)
    anywhere = _boxes(rng, DETECTIONS_PER_IMAGE - on_objects)
    labels = rng.choice(len(share), DETECTIONS_PER_IMAGE, p=share)
    labels[:on_objects] = np.where(rng.random(on_objects) < 0.8, classes[which], labels[:on_objects])
    labels[on_objects : on_objects + absent] = rng.choice(image["neg_category_ids"], absent) - 1
    scores = np.exp(rng.uniform(np.log(1e-3), 0, DETECTIONS_PER_IMAGE)).astype(np.float32)
    found = _clip(np.concatenate([moved, anywhere])).astype(np.float32)
    rles = mask_util.frPyObjects(_ellipses(rng, found.astype(np.float64)), HEIGHT, WIDTH)
    order = np.argsort(-scores)
    return found[order], scores[order], labels[order], [rles[index] for index in order]


def _clip(boxes: np.ndarray) -> np.ndarray:
    """Clip boxes to the image, with sides of at least a pixel."""
    start = np.clip(boxes[:, :2], 0, (WIDTH - 1, HEIGHT - 1))
    end = np.clip(boxes[:, :2] + boxes[:, 2:], start + 1, (WIDTH, HEIGHT))
    return np.concatenate([start, end - start], axis=1)
