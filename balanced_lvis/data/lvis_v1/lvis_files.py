"""The files of LVIS-1.0: URLs, counts and checksums."""

from __future__ import annotations

import dataclasses

ANNOTATIONS_URL = "https://dl.fbaipublicfiles.com/LVIS/"
IMAGES_URL = "http://images.cocodataset.org/zips/"
IMAGE_URL = "http://images.cocodataset.org/"  # single images: folder/name
NUM_CATEGORIES = 1203
OTHER_ROOT = "set another folder with --root"  # the remedy where disk space is missing
# All images of each COCO folder; LVIS-1.0 doesn't use all of them.
NUM_COCO_IMAGES = {"train2017": 118_287, "val2017": 5_000, "test2017": 40_670}


@dataclasses.dataclass(frozen=True)
class AnnotationFile:
    """
    Attributes:
        name: name of the JSON file.
        num_images, num_annotations: number of records; None for a file without ``annotations``.
        folders: the COCO folders with its images.
        md5: published MD5 of ``name``.zip; "" if none is published.
        num_categories: number of categories.
    """

    name: str
    num_images: int
    num_annotations: int | None
    folders: tuple[str, ...]
    md5: str = ""
    num_categories: int = NUM_CATEGORIES

    @property
    def archive(self) -> str:
        """Name of the published archive."""
        return f"{self.name}.zip"


ANNOTATIONS = {
    "train": AnnotationFile(
        "lvis_v1_train.json", 100_170, 1_270_141, ("train2017",), "4410d837f71203af226950447ef9d422"
    ),
    "val": AnnotationFile(
        "lvis_v1_val.json", 19_809, 244_707, ("train2017", "val2017"), "87734a7f895990b9552075d7ce723e27"
    ),
    "test_dev": AnnotationFile("lvis_v1_image_info_test_dev.json", 19_822, None, ("test2017",)),
}
