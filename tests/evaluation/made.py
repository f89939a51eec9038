"""Annotations and detections that several test modules of the evaluation share."""

from __future__ import annotations

import copy
import logging

import numpy as np
from pycocotools import mask as mask_util

from balanced_lvis.evaluation import LVIS, Detections, DetectionWriter, evaluate_detections

HEIGHT, WIDTH = 24, 32


def lvis_of(content: dict) -> LVIS:
    """The API's view of a file with this content."""
    api = LVIS.__new__(LVIS)
    api.logger = logging.getLogger("lvis")
    api.dataset = copy.deepcopy(content)
    api._create_index()
    return api


def box_annotation(number: int, image: int, category: int, box, area: float | None = None) -> dict:
    """An annotation in LVIS format whose mask is its box; the area is that of the box unless it is given."""
    x, y, w, h = box
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": list(box),
        "area": w * h if area is None else area,
        "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
    }


def made_content(objects, negative=(), not_exhaustive=(), images=4, categories=4) -> dict:
    """
    Args:
        objects: (image, category, [x, y, w, h]) or, with an area other than w * h, a fourth.
        negative, not_exhaustive: (image, category).
    """
    content = {"images": [], "annotations": [], "categories": []}
    for c in range(1, categories + 1):
        content["categories"].append({"id": c, "name": f"c{c}", "frequency": "rcf"[c % 3], "image_count": c})
    for i in range(1, images + 1):
        lists = {
            "neg_category_ids": [c for image, c in negative if image == i],
            "not_exhaustive_category_ids": [c for image, c in not_exhaustive if image == i],
        }
        content["images"].append({"id": i, "height": HEIGHT, "width": WIDTH, **lists})
    for number, (image, category, box, *area) in enumerate(objects, 1):
        content["annotations"].append(box_annotation(number, image, category, box, *area))
    return content


def box_mask(box) -> dict:
    """RLE of a box, rounded and clipped."""
    x, y, w, h = np.round(box).astype(int).tolist()
    mask = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    mask[max(y, 0) : max(y + h, 0), max(x, 0) : max(x + w, 0)] = 1
    return mask_util.encode(mask)


def stored(folder, results, with_masks=True) -> Detections:
    """
    Args:
        results: (image, category, [x, y, w, h], score) or, with a mask other than the box's, its RLE as a fifth.
    """
    writer = DetectionWriter(folder)
    for image, category, box, score, *mask in results:
        rles = [mask[0] if mask else box_mask(box)] if with_masks else None
        writer.write(image, [box], [score], [category - 1], rles)
    writer.close()
    return Detections(folder)


def assert_equal_numbers(content, detections: Detections, limit: int = 300, tasks=("bbox", "segm")) -> list[dict]:
    """Both back ends say the same to the last digit, NaN included; returns the numbers of every task."""
    found = []
    for task in tasks:
        official = evaluate_detections(lvis_of(content), detections, task, "official", limit)
        fast = evaluate_detections(lvis_of(content), detections, task, "fast", limit)
        for one, other in zip(official, fast):
            assert list(one) == list(other)
            np.testing.assert_array_equal(list(one.values()), list(other.values()))
        found.append(fast[0])
    return found
