"""Small rendered datasets, and what tests look at in them."""

from __future__ import annotations

import hashlib
import json

from pycocotools import mask as rle

from balanced_lvis.data.rendered import RenderedSpec, annotation_file

SMALL = RenderedSpec(num_classes=20, train_images=60, val_images=24, test_images=4, seed=3)
TINY = RenderedSpec(
    num_classes=3,
    train_images=3,
    val_images=2,
    test_images=1,
    image_size=48,
    objects_per_image=2,
)


def load(root, split):
    return json.loads(annotation_file(root, split).read_text(encoding="utf-8"))


def digests(root):
    """Relative path and content hash of every file."""
    files = [p for p in sorted(root.rglob("*")) if p.is_file()]
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def decode(polygons, size=(128, 128)):
    return rle.decode(rle.merge(rle.frPyObjects(polygons, *size))).astype(bool)


def leftovers(root):
    return [p.name for p in root.parent.iterdir() if ".partial-" in p.name]


def iou(a, b):
    return (a & b).sum() / (a | b).sum()
