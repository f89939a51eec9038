"""A small COCO dataset with everything that LVIS doesn't have."""

import copy
import json
from pathlib import Path

import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from PIL import Image
from pycocotools import mask as mask_util

from balanced_lvis.config import load_config
from balanced_lvis.data.registered_files import evaluation_file_of
from balanced_lvis.experiments.small_rendered import override_words
from tests.common import CONFIGS

WIDTH, HEIGHT = 64, 48
# Unordered ids with gaps; no annotation has the last one.
CATEGORIES = [{"id": 7, "name": "cup"}, {"id": 3, "name": "cat"}, {"id": 90, "name": "dog"}, {"id": 91, "name": "owl"}]


def square(x, y, side=16):
    return [[x, y, x + side, y, x + side, y + side, x, y + side]]


def annotation(number, image, category, x=8, y=8, side=16, **more):
    return {
        "id": number, "image_id": image, "category_id": category, "iscrowd": 0, "bbox": [x, y, side, side],
        "area": float(side * side), "segmentation": square(x, y, side), **more,
    }  # fmt: skip


def rle(x=8, y=8, side=16, compressed=False) -> dict:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[y : y + side, x : x + side] = 1
    if compressed:
        coded = mask_util.encode(np.asfortranarray(mask))
        return {"size": coded["size"], "counts": coded["counts"].decode()}
    flat, runs, value = mask.T.ravel(), [0], 0
    for pixel in flat.tolist():
        if pixel != value:
            runs.append(0)
            value = pixel
        runs[-1] += 1
    return {"size": [HEIGHT, WIDTH], "counts": runs}


def content(rles=False) -> dict:
    """Four images: a cup and a cat; a dog next to a crowd of dogs; only a crowd of cats; nothing."""
    more = {"segmentation": rle()} if rles else {}
    crowd = {"iscrowd": 1, "segmentation": rle(30, 20)}
    images = [{"id": 10 * i, "file_name": f"{i}.jpg", "width": WIDTH, "height": HEIGHT} for i in (1, 2, 3, 4)]
    annotations = [
        annotation(0, 10, 7), annotation(5, 10, 3, 30, 20, **more and {"segmentation": rle(30, 20, compressed=True)}),
        annotation(6, 20, 90, **more), annotation(7, 20, 90, 30, 20, **crowd), annotation(8, 30, 3, 30, 20, **crowd),
    ]  # fmt: skip
    return copy.deepcopy({"images": images, "annotations": annotations, "categories": CATEGORIES})


def write(folder, name, made) -> str:
    """An annotation file and its images in ``folder``/images."""
    folder.joinpath("images").mkdir(exist_ok=True, parents=True)
    for image in made["images"]:
        pixels = np.random.default_rng(image["id"]).integers(0, 255, (HEIGHT, WIDTH, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "images" / image["file_name"])
    path = folder / f"{name}.json"
    path.write_text(json.dumps(made))
    return str(path)


def write_with_broken_images(folder, name) -> dict:
    """An annotation file in which the last two of the four images can't be read; its content."""
    made = content()
    made["annotations"] += [annotation(50 + number, image, 7) for number, image in enumerate((30, 40))]
    write(folder, name, made)
    for image in ("3.jpg", "4.jpg"):
        path = folder / "images" / image
        path.write_bytes(path.read_bytes()[:300])
    return made


def _of_categories(name, key) -> dict:
    content = json.loads(Path(evaluation_file_of(name)).read_text())
    return {category["name"]: category[key] for category in content["categories"]}


def counts_of(name) -> dict[str, int]:
    """Numbers of images by the names of a dataset's categories."""
    return _of_categories(name, "image_count")


def groups_of(name) -> dict[str, str]:
    return _of_categories(name, "frequency")


def instances_of(annotations) -> Instances:
    """A perfect prediction of a record's annotations, whose boxes are their masks."""
    boxes = torch.tensor([a["bbox"] for a in annotations]).reshape(-1, 4).float()
    boxes[:, 2:] += boxes[:, :2]
    masks = torch.zeros(len(annotations), HEIGHT, WIDTH, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.int().tolist()):
        mask[y0:y1, x0:x1] = True
    found = Instances((HEIGHT, WIDTH), pred_boxes=Boxes(boxes), pred_masks=masks)
    found.scores = torch.ones(len(annotations))
    found.pred_classes = torch.tensor([a["category_id"] for a in annotations], dtype=torch.int64)
    return found


def config(folder, train="train", test="val", **opts):
    """The quick-start config for the datasets in ``folder``, with their number of classes."""
    return load_config(CONFIGS / "quick_start" / "balanced_sigmoid.yaml", overrides(folder, train, test, **opts))


def overrides(folder, train="train", test="val", **opts) -> list[str]:
    pairs = {
        f"DATASETS.CUSTOM.my_{name}.{key}": value
        for name in {train, test} - {""}
        for key, value in (("JSON", folder / f"{name}.json"), ("IMAGES", folder / "images"))
    }
    pairs["DATASETS.TRAIN"] = f"('my_{train}',)" if train else "()"
    pairs["DATASETS.TEST"] = f"('my_{test}',)" if test else "()"
    pairs.update({"MODEL.ROI_HEADS.NUM_CLASSES": 0, "MODEL.DEVICE": "cpu", "OUTPUT_DIR": folder / "out"})
    pairs.update({key.replace("__", "."): value for key, value in opts.items()})
    return override_words(pairs)
