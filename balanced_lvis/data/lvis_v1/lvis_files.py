"""What LVIS-1.0 consists of, where it comes from, and what tells that it is whole."""

from __future__ import annotations

import dataclasses

ANNOTATIONS_URL = "https://dl.fbaipublicfiles.com/LVIS/"
IMAGES_URL = "http://images.cocodataset.org/zips/"
IMAGE_URL = "http://images.cocodataset.org/"  # of one: folder/name
NUM_CATEGORIES = 1203
# Of COCO's folders, all of them. LVIS-1.0 doesn't use every one.
NUM_COCO_IMAGES = {"train2017": 118_287, "val2017": 5_000, "test2017": 40_670}


@dataclasses.dataclass(frozen=True)
class AnnotationFile:
    """
    Attributes:
        name: of the JSON file.
        num_images, num_annotations: what it holds; None for a file without ``annotations``.
        folders: of COCO's, that its images are in.
        md5: of ``name``.zip, as published; "" where none is, and the file's own checks have to do.
        num_categories: of its list of them.
    """

    name: str
    num_images: int
    num_annotations: int | None
    folders: tuple[str, ...]
    md5: str = ""
    num_categories: int = NUM_CATEGORIES

    @property
    def archive(self) -> str:
        """The name under which it is published."""
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
