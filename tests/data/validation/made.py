"""A small valid annotation file, for tests that add faults."""

import copy
import json

TRIANGLE = [1.0, 1.0, 9.0, 1.0, 9.0, 9.0]

GOOD = {
    "images": [
        {"id": i, "width": 20, "height": 10, "file_name": f"{i}.jpg", "coco_url": f"http://x.org/train2017/{i}.jpg"}
        for i in (7, 3, 5)
    ],
    "categories": [{"id": 1, "name": "cat"}, {"id": 90, "name": "dog"}],
    "annotations": [
        {
            "id": i,
            "image_id": image_id,
            "category_id": category_id,
            "bbox": [1.0, 1.0, 8.0, 8.0],
            "area": 32.0,
            "iscrowd": 0,
            "segmentation": [TRIANGLE],
        }
        for i, (image_id, category_id) in enumerate(((3, 1), (3, 90), (7, 1)), start=1)
    ],
}


def good():
    """The content of a valid file."""
    return copy.deepcopy(GOOD)


def federated(content):
    """``content``, with the lists that only files in LVIS format have."""
    for image in content["images"]:
        image.update(neg_category_ids=[content["categories"][0]["id"]], not_exhaustive_category_ids=[])
    return content


def write(folder, content):
    """Write content, as JSON or text; returns the path."""
    path = folder / "annotations.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def kinds(report):
    """The numbers of problems by their kind."""
    return {problem.kind: problem.count for problem in report.problems}
