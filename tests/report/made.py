"""Annotations, images and detections of two runs, for reports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from pycocotools import mask as mask_util

from balanced_lvis.evaluation import DetectionWriter
from tests.evaluation.made import box_annotation

HEIGHT, WIDTH = 96, 128
# Names that a page must show and not run.
HOSTILE = (
    "<script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 1'>",
    "\"quoted\" & 'quoted' <b>bold</b>",
    "</script><script>window.hacked = 1</script>",
    "{{ 1 + 1 }} %{y} $\\alpha$",
)


class Made(NamedTuple):
    """
    Attributes:
        annotations: path of the annotation file.
        images: folder of the images.
        runs: folders of stored detections; the second run is better.
        content: of the annotation file.
    """

    annotations: Path
    images: Path
    runs: list[Path]
    content: dict


def made_dataset(folder: Path, categories: int, images: int, objects: int = 4, seed: int = 0) -> Made:
    """
    Args:
        folder: where everything is written.
        categories: number of categories; the names of the first are :data:`HOSTILE`.
        images: number of images, which are JPEG files of noise.
        objects: objects per image.
        seed: of the random numbers.
    """
    rng = np.random.default_rng(seed)
    content = {"images": [], "annotations": [], "categories": []}
    for k in range(categories):
        name = HOSTILE[k] if k < len(HOSTILE) else f"category {k}"
        counts = {"frequency": "rcf"[k % 3], "image_count": int(10 ** (1 + k % 3) * rng.uniform(0.1, 1))}
        content["categories"].append({"id": 10 * k + 10, "name": name, **counts})
    ids = [category["id"] for category in content["categories"]]
    (folder / "images").mkdir(parents=True)
    for i in range(1, images + 1):
        name = f"{i:05}.jpg"
        Image.fromarray(rng.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)).save(folder / "images" / name)
        own = [ids[(i * objects + n) % categories] for n in range(objects)]
        negative = sorted({int(k) for k in rng.choice(ids, min(10, categories))} - set(own))
        content["images"].append(
            {
                "id": i,
                "file_name": name,
                "height": HEIGHT,
                "width": WIDTH,
                "neg_category_ids": negative,
                "not_exhaustive_category_ids": [],
            }
        )
        for category_id in own:
            number = len(content["annotations"]) + 1
            content["annotations"].append(box_annotation(number, i, category_id, _box(rng)))
    path = folder / "annotations.json"
    path.write_text(json.dumps(content))
    runs = [_stored(folder / name, content, ids, rng, share) for name, share in (("first", 0.4), ("second", 0.8))]
    return Made(path, folder / "images", runs, content)


def _box(rng: np.random.Generator) -> list[float]:
    w, h = rng.integers(12, 40, 2).tolist()
    return [float(rng.integers(0, WIDTH - w)), float(rng.integers(0, HEIGHT - h)), float(w), float(h)]


def _stored(folder: Path, content: dict, ids: list[int], rng: np.random.Generator, share: float) -> Path:
    """Stored detections that find a share of the objects; the others are classified wrongly. Some are anywhere."""
    writer = DetectionWriter(folder)
    for image in content["images"]:
        rows = []
        for annotation in (one for one in content["annotations"] if one["image_id"] == image["id"]):
            right = rng.random() < share
            wrong = rng.choice(image["neg_category_ids"] or ids)
            rows.append((annotation["bbox"], annotation["category_id"] if right else wrong, rng.uniform(0.3, 1)))
        rows += [(_box(rng), rng.choice(image["neg_category_ids"] or ids), rng.uniform(0, 0.5)) for _ in range(2)]
        boxes, categories, scores = zip(*rows)
        classes = [ids.index(category) for category in categories]
        writer.write(image["id"], boxes, scores, classes, [_mask(box) for box in boxes])
    writer.close()
    return folder


def _mask(box) -> dict:
    """RLE of the left three quarters of a box, so that boxes are better than masks."""
    x, y, w, h = map(int, box)
    mask = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    mask[y : y + h, x : x + w - w // 4] = 1
    return mask_util.encode(mask)
