"""Figures of predictions next to the ground truth."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from pycocotools import mask as mask_util

from ..data.images.image_files import read_image
from ..data.rle import rle_of
from ..drawing.lettering import label_text, lettering, plain_text
from ..drawing.selection import best_detections
from .plots import plt


def draw_comparison(annotation_file, image_root, predictions: dict[str, list[dict]], image_ids, path) -> None:
    """
    Draw a row per image: the ground truth, then the predictions of each method.

    Each method shows as many detections as there are objects: those with the highest scores after class-agnostic NMS at
    0.5 IoU. Labels of classes that are not in the image are red.

    Args:
        annotation_file: LVIS-format JSON.
        image_root: folder that contains the folders in ``coco_url``.
        predictions: {method: detections in LVIS result format}.
        image_ids: the images to draw.
        path: image file to write.
    """
    content = json.loads(Path(annotation_file).read_text(encoding="utf-8"))
    images = {image["id"]: image for image in content["images"]}
    labels, families = lettering({c["id"]: short_label(c) for c in content["categories"]}, "category")
    truth = _by_image(content["annotations"])
    found = {method: _by_image(results) for method, results in predictions.items()}
    with plain_text(families):
        figure = _figure(images, truth, found, labels, image_root, image_ids)
        figure.savefig(path, dpi=80)
    plt.close(figure)


def draw_examples(annotation_file, image_root, path, rows: int = 2, columns: int = 6) -> None:
    """
    Draw the first images of a dataset with their annotations: above, the images; below, the same with their instances.

    Args:
        annotation_file: LVIS-format JSON.
        image_root: folder that contains the folders in ``coco_url``.
        path: image file to write.
        rows: number of rows of images, each followed by a row with the instances.
        columns: number of images in a row.
    """
    content = json.loads(Path(annotation_file).read_text(encoding="utf-8"))
    labels, families = lettering({c["id"]: short_label(c) for c in content["categories"]}, "category")
    truth = _by_image(content["annotations"])
    images = content["images"][: rows * columns]
    with plain_text(families):
        figure, grid = plt.subplots(
            2 * rows, columns, figsize=(2.4 * columns, 4.8 * rows), layout="constrained", squeeze=False
        )  # fmt: skip
        for axes in grid.flat:
            axes.axis("off")
        for index, image in enumerate(images):
            row, column = divmod(index, columns)
            pixels, objects = _pixels(image, image_root), truth[image["id"]]
            _draw(grid[2 * row, column], pixels, [], labels, set(), "")
            _draw(grid[2 * row + 1, column], pixels, objects, labels, set(labels), "")
        figure.savefig(path, dpi=80)
    plt.close(figure)


def _pixels(image: dict, image_root) -> np.ndarray:
    file = Path(image_root, *image["coco_url"].split("/")[-2:])
    return read_image(file, "RGB", (image["width"], image["height"]))


def _figure(images, truth, found, labels, image_root, image_ids):
    figure, grid = plt.subplots(
        len(image_ids), 1 + len(found), figsize=(3 * (1 + len(found)), 3 * len(image_ids)), layout="constrained",
        squeeze=False,
    )  # fmt: skip
    for axes_row, image_id in zip(grid, image_ids):
        image = images[image_id]
        pixels, objects = _pixels(image, image_root), truth[image_id]
        right = {o["category_id"] for o in objects}
        _draw(axes_row[0], pixels, objects, labels, right, "ground truth")
        for axes, (method, results) in zip(axes_row[1:], found.items()):
            _draw(axes, pixels, _best(results[image_id], len(objects)), labels, right, label_text(method))
    return figure


def short_label(category: dict) -> str:
    """The shortest name of a category, which in the rendered dataset is the character itself."""
    return min([category["name"], *category.get("synonyms", [])], key=len)


def _best(detections: list[dict], count: int) -> list[dict]:
    boxes = torch.tensor([d["bbox"] for d in detections], dtype=torch.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    scores = torch.tensor([float(d["score"]) for d in detections])
    return [detections[i] for i in best_detections(boxes, scores, count).tolist()]


def _by_image(records: list[dict]) -> dict[int, list[dict]]:
    groups = defaultdict(list)
    for record in records:
        groups[record["image_id"]].append(record)
    return groups


def _draw(axes, pixels, objects, labels, right, title) -> None:
    axes.imshow(pixels)
    height, width = pixels.shape[:2]
    for index, record in enumerate(objects):
        color = plt.get_cmap("tab10")(index % 10)
        mask = mask_util.decode(rle_of(record["segmentation"], height, width)).astype(bool)
        axes.imshow(np.where(mask[..., None], color, 0) * [1, 1, 1, 0.45], interpolation="nearest")
        axes.contour(mask, levels=[0.5], colors=[color], linewidths=1.2)
        x, y, _, _ = record["bbox"]
        score = f" {record['score']:.2f}" if "score" in record else ""
        wrong = record["category_id"] not in right
        axes.text(
            x, y, labels[record["category_id"]] + score, fontsize=9, color="white", va="bottom",
            bbox={"facecolor": "firebrick" if wrong else "black", "alpha": 0.75, "pad": 1, "linewidth": 0},
        )  # fmt: skip
    axes.set_title(title, fontsize=9)
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    axes.axis("off")
