"""Small annotation files, and how Detectron2 and the index read them."""

import functools
import json
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.lvis import load_lvis_json
from hypothesis import strategies as st

from balanced_lvis.data.index import LVISRecords, open_index

ROOT = "coco/"
K = 6


def image(image_id, **keys):
    url = f"http://images.cocodataset.org/train2017/{image_id:012d}.jpg"
    return {"id": image_id, "height": 480, "width": 640, "coco_url": url, **keys}


def annotation(annotation_id, image_id, category_id=1, segmentation=((1.5, 2.25, 3.0, 2.0, 3.0, 4.75),), **keys):
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": [1.5, 2.0, 1.5, 2.75],
        "segmentation": list(map(list, segmentation)),
        **keys,
    }


def content(images, annotations):
    return {
        "categories": [{"id": i + 1, "name": f"c{i}"} for i in range(K)],
        "images": images,
        "annotations": annotations,
    }


SMALL = content(
    [image(7, neg_category_ids=[3, 1], not_exhaustive_category_ids=[2]), image(3), image(5)],
    [annotation(1, 5, 2), annotation(2, 3), annotation(3, 5, 6), annotation(4, 5, 2)],
)


def write(folder, what=SMALL):
    path = Path(folder, "annotations.json")
    path.write_text(what if isinstance(what, str) else json.dumps(what))
    return str(path)


def stock(path):
    return load_lvis_json(path, ROOT)


def ours(path, **options):
    return LVISRecords(open_index(path), ROOT, **options)


def exact(records):
    """Text that distinguishes 1 from 1.0, 0.0 from -0.0 and different orders of keys."""
    return [json.dumps(record) for record in records]


def same_size_other_content(path):
    """Changes a category, and keeps the number of bytes."""
    text = Path(path).read_text()
    other = text.replace('"category_id": 6', '"category_id": 5')
    assert other != text
    Path(path).write_text(other)


def register_plainly(name, path):
    DatasetCatalog.register(name, functools.partial(load_lvis_json, path, ROOT))
    MetadataCatalog.get(name).set(thing_classes=[f"class {i}" for i in range(K)])


hundredths = st.integers(0, 70_000).map(lambda n: n / 100)
numbers = st.one_of(hundredths, st.floats(allow_nan=False), st.integers(-(2**53), 2**53), st.just(-0.0))
