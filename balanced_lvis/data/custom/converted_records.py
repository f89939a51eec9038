"""Records of a converted file."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Mapping

from detectron2.structures import BoxMode


def load_custom(json_file: str, image_root: str, contiguous_ids: Mapping[int, int]) -> list[dict]:
    """
    All images of a file that :func:`balanced_lvis.data.custom.convert.convert` wrote, in Detectron2's standard format.

    Where no mask is run lengths, :class:`balanced_lvis.data.index.LVISRecords` has equal records, in less memory.

    Args:
        json_file: the converted file.
        image_root: the folder of images, with a separator at its end.
        contiguous_ids: the file's category ids -> 0..K-1.

    Returns:
        a record per image, by ascending id.
    """
    with open(json_file, encoding="utf-8") as file:
        content = json.load(file)
    annotations = defaultdict(list)
    for annotation in content["annotations"]:
        if annotation.get("ignore"):  # known to the evaluation alone
            continue
        annotations[annotation["image_id"]].append(
            {
                "bbox": annotation["bbox"],
                "bbox_mode": BoxMode.XYWH_ABS,
                "category_id": contiguous_ids[annotation["category_id"]],
                "segmentation": annotation["segmentation"],
            }
        )
    return [
        {
            "file_name": os.path.join(image_root, image["file_name"]),
            "height": image["height"],
            "width": image["width"],
            "not_exhaustive_category_ids": image["not_exhaustive_category_ids"],
            "neg_category_ids": image["neg_category_ids"],
            "image_id": image["id"],
            "annotations": annotations[image["id"]],
        }
        for image in sorted(content["images"], key=lambda image: image["id"])
    ]
