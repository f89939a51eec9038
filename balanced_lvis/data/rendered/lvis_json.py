"""Content of rendered images, and their records in LVIS-1.0 format."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as rle

from ...priors import frequency_group
from .glyphs import Glyph, alphabet
from .longtail import assign, balanced_counts, train_counts
from .scene import Scene, draw_scene, to_polygons
from .spec import SPLITS, RenderedSpec

_NOT_EXHAUSTIVE = 0.05  # share of images with an object that is drawn but not annotated
_NEGATIVES = (4, 8)  # range of the number of negative categories of an image


@dataclass(frozen=True)
class SplitPlan:
    """Planned content of the images of a split.

    Attributes:
        first_id: id of the first image; the others are consecutive.
        categories: for each image the category indices of its annotated objects.
    """

    spec: RenderedSpec
    split: str
    first_id: int
    categories: list[list[int]]


@dataclass(frozen=True)
class DrawnImage:
    """A drawn image and its records.

    Attributes:
        scene: pixels, objects and id map.
        annotated: for each object of the scene whether it is annotated.
        record: LVIS's image record.
        annotations: LVIS's annotations, without ids, in the order of the annotated objects.
    """

    scene: Scene
    annotated: list[bool]
    record: dict
    annotations: list[dict]


def plan_splits(spec: RenderedSpec) -> dict[str, SplitPlan]:
    """Choose the categories of each image: long-tailed in train, balanced in the other splits."""
    plans, first_id = {}, 1
    for number, split in enumerate(SPLITS):
        rng = np.random.default_rng([spec.seed, number, 0])
        images = spec.num_images(split)
        if split == "train":
            counts = train_counts(spec.num_classes, images, spec.objects_per_image, rng)
        else:
            counts = balanced_counts(spec.num_classes, images, spec.objects_per_image, rng, split)
        plans[split] = SplitPlan(spec, split, first_id, assign(counts, images, spec.objects_per_image, rng))
        first_id += images
    return plans


def categories_json(glyphs: tuple[Glyph, ...], train: list[list[int]]) -> list[dict]:
    """LVIS's category records; the counts are those of the train split."""
    images = Counter(c for image in train for c in set(image))
    instances = Counter(c for image in train for c in image)
    return [
        {
            "id": i + 1,
            "name": glyph.name,
            "synonyms": [glyph.name, glyph.character],
            "synset": f"{glyph.name}.n.01",
            "def": f"the character {glyph.character} (U+{ord(glyph.character):04X})",
            "frequency": frequency_group(images[i]),
            "image_count": images[i],
            "instance_count": instances[i],
        }
        for i, glyph in enumerate(glyphs)
    ]


def split_json(
    split: str,
    categories: list[dict],
    drawn: list[tuple[dict, list[dict]]],
    first_id: int,
) -> dict:
    """Content of a split's file, from its images' records and annotations; annotation ids start at ``first_id``."""
    annotations = [a for _, annotations in drawn for a in annotations]
    if split == "test_dev":
        annotations = []
    return {
        "info": {"description": f"Rendered characters, {split}", "version": "1.0", "url": ""},
        "licenses": [{"id": 1, "name": "public domain", "url": ""}],
        "categories": categories,
        "images": [record for record, _ in drawn],
        "annotations": [{"id": i, **a} for i, a in enumerate(annotations, start=first_id)],
    }


def draw_image(plan: SplitPlan, index: int) -> DrawnImage:
    """Draw one image of a split. It depends on spec, split and index only, and not on other images."""
    spec, glyphs = plan.spec, alphabet(plan.spec.num_classes)
    rng = np.random.default_rng([spec.seed, SPLITS.index(plan.split), index + 1])
    categories, annotated = list(plan.categories[index]), [True] * len(plan.categories[index])
    if categories and plan.split != "test_dev" and rng.random() < _NOT_EXHAUSTIVE:
        _hide_one(categories, annotated, rng)
    scene = draw_scene(glyphs, categories, spec.image_size, spec.object_scale, rng)
    record = _image_record(plan, index)
    if plan.split == "test_dev":
        return DrawnImage(scene, annotated, record, [])
    absent = np.setdiff1d(np.arange(spec.num_classes), categories)
    count = min(int(rng.integers(_NEGATIVES[0], _NEGATIVES[1] + 1)), len(absent))
    record["neg_category_ids"] = sorted(int(c) + 1 for c in rng.choice(absent, count, replace=False))
    record["not_exhaustive_category_ids"] = sorted({c + 1 for c, a in zip(categories, annotated) if not a})
    annotations = [
        _annotation(record["id"], item.category, to_polygons(item.visible, spec.image_size), spec.image_size)
        for item, is_annotated in zip(scene.objects, annotated)
        if is_annotated
    ]
    return DrawnImage(scene, annotated, record, annotations)


def save_image(drawn: DrawnImage, root: Path) -> None:
    """Write the JPEG to the path in the record's ``coco_url``, below ``root``."""
    path = Path(root, *drawn.record["coco_url"].split("/")[-2:])
    Image.fromarray(drawn.scene.image).save(path, quality=95, subsampling=0)


def _hide_one(categories: list[int], annotated: list[bool], rng: np.random.Generator) -> None:
    """Add another object of a category in the image, and leave one object of that category unannotated."""
    chosen = categories[rng.integers(len(categories))]
    categories.insert(int(rng.integers(len(categories) + 1)), chosen)
    places = [i for i, c in enumerate(categories) if c == chosen]
    annotated.append(True)
    annotated[places[rng.integers(len(places))]] = False


def _image_record(plan: SplitPlan, index: int) -> dict:
    height, width = plan.spec.image_size
    image_id = plan.first_id + index
    url = f"http://rendered.invalid/{plan.split}/{image_id:012d}.jpg"
    return {
        "id": image_id,
        "width": width,
        "height": height,
        "coco_url": url,
        "flickr_url": url,
        "date_captured": "1970-01-01 00:00:00",
        "license": 1,
    }


def _annotation(
    image_id: int,
    category: int,
    polygons: list[list[float]],
    image_size: tuple[int, int],
) -> dict:
    x = np.concatenate([p[0::2] for p in polygons])
    y = np.concatenate([p[1::2] for p in polygons])
    box = (x.min(), y.min(), np.ptp(x), np.ptp(y))
    return {
        "image_id": image_id,
        "category_id": category + 1,
        "segmentation": polygons,
        "area": float(rle.area(rle.merge(rle.frPyObjects(polygons, *image_size)))),
        "bbox": [round(float(v), 2) for v in box],
    }
