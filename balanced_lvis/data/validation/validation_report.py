"""Kinds of problems, which of them are errors, and how they are told."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from ...utils import findings
from ...utils.findings import ERROR, WARNING, Kind

# Errors are what stops or silently falsifies training or evaluation, warnings what Detectron2 copes with.
KINDS = {
    "not_json": Kind(ERROR, "file that is no JSON object to its end", "Get it again, whole and unzipped."),
    "no_images": Kind(ERROR, "file without images", "COCO and LVIS files list them under 'images'."),
    "no_categories": Kind(ERROR, "file without categories", "COCO and LVIS files list them under 'categories'."),
    # images
    "malformed_image": Kind(
        ERROR, "image records that can't be read", "Each has a whole 'id', 'width', 'height', and a path."
    ),
    "duplicate_image_id": Kind(ERROR, "image ids that occur again", "Number images so that ids are unique."),
    "path_leaves_root": Kind(
        ERROR, "image paths that leave the image folder", "Make paths relative to it, without '..'."
    ),
    "image_missing": Kind(
        ERROR, "images that are not on the disk", "Get them, correct the image folder, or leave them out on purpose."
    ),
    "image_unreadable": Kind(ERROR, "images that can't be read", "Get or save them again."),
    "image_size_differs": Kind(
        ERROR, "images of another size than annotated", "Correct 'width' and 'height', or use the original images."
    ),
    "path_respelled": Kind(
        WARNING,
        "image paths that no file has as written, but with / for \\, percent-decoded or in another Unicode form",
        "Those files are used; correct the paths.",
    ),
    "same_file": Kind(WARNING, "images whose file another image has too", "Merge them, unless that is meant."),
    "negatives_empty": Kind(
        WARNING,
        "images with 'neg_category_ids', all of them empty lists",
        "What is found of a category in images without its objects isn't counted as wrong, and AP is too high. List "
        "the categories that are absent, or, if annotation is exhaustive, remove the field and name the file under "
        "DATASETS.CUSTOM.",
    ),
    # categories
    "malformed_category": Kind(ERROR, "category records that can't be read", "Each has a whole 'id' and a 'name'."),
    "duplicate_category_id": Kind(ERROR, "category ids that occur again", "Number categories so that ids are unique."),
    "duplicate_category_name": Kind(WARNING, "category names that occur again", "Give each its own name."),
    # annotations
    "malformed_annotation": Kind(
        ERROR,
        "annotations that can't be read",
        "Each has a whole 'id', 'image_id', 'category_id', and 'bbox' [x, y, width, height].",
    ),
    "flag_invalid": Kind(
        ERROR,
        "annotations whose 'iscrowd' or 'ignore' is none of 0, 1, true, false and null",
        "Write 0 or 1 as a number, without quotes.",
    ),
    "no_objects": Kind(
        ERROR,
        "annotations, all of them with 'iscrowd' or 'ignore' 1, so that there is no object",
        "Crowd regions and ignored objects are neither trained on nor to be found. Some tools, such as CVAT, write "
        "'iscrowd' 1 for every RLE mask: set it to 0 where a mask is one object's.",
    ),
    "category_without_objects": Kind(
        WARNING,
        "categories that have annotations, all of them with 'iscrowd' or 'ignore' 1",
        "They are neither trained on nor evaluated; set 'iscrowd' to 0 where a mask is one object's.",
    ),
    "crowd_in_lvis": Kind(
        ERROR,
        "annotations with 'iscrowd' 1 in LVIS format, which has no crowds: loader and LVIS API take them for objects",
        "Name the file under DATASETS.CUSTOM, which leaves crowd regions out, or remove them.",
    ),
    "object_again": Kind(
        WARNING,
        "annotations with the category and the mask or box of another one of their image",
        "Remove one of each two: only one can be found.",
    ),
    "duplicate_annotation_id": Kind(ERROR, "annotation ids that occur again", "Number annotations uniquely."),
    "unknown_image_id": Kind(
        ERROR, "annotations of images that are not in 'images'", "Remove them, or add the images."
    ),
    "unknown_category_id": Kind(
        ERROR, "annotations of categories that are not in 'categories'", "Correct category_id, or add the categories."
    ),
    "unknown_federated_id": Kind(
        WARNING,
        "images whose neg_category_ids or not_exhaustive_category_ids are not in 'categories'",
        "Correct them; they say which categories an image is judged by.",
    ),
    "box_not_finite": Kind(ERROR, "boxes with NaN or infinite values", "Correct or remove them."),
    "box_negative_size": Kind(
        ERROR, "boxes of negative width or height", "Write boxes as [x, y, width, height], not as two corners."
    ),
    "box_off_image": Kind(
        WARNING,
        "boxes wholly outside their image",
        "Training leaves them out, evaluation counts them as missed; correct the box, or the image's width and height.",
    ),
    "box_zero_area": Kind(WARNING, "boxes without area", "Training leaves them out; correct or remove them."),
    "box_outside_image": Kind(
        WARNING, "boxes more than a pixel over their image's edge", "Training clips them; correct them."
    ),
    "boxes_normalised": Kind(
        WARNING,
        "boxes, all of them within 0 and 1",
        "Boxes are in pixels: multiply x and width by the image's width, y and height by its height.",
    ),
    "box_differs": Kind(
        WARNING,
        "boxes that are not where their mask is, by more than 2 pixels and 5 % of its side",
        "Training learns both; write boxes as [x, y, width, height] of the mask.",
    ),
    "polygon_too_short": Kind(ERROR, "polygons of fewer than 3 points", "Correct or remove them."),
    "polygon_odd": Kind(ERROR, "polygons with an odd number of coordinates", "Write them as [x, y, x, y, ...]."),
    "polygon_not_finite": Kind(ERROR, "polygons with NaN or infinite coordinates", "Correct or remove them."),
    "polygon_outside_image": Kind(
        WARNING, "masks more than a pixel over their image's edge", "What is outside is ignored; correct them."
    ),
    "rle_undecodable": Kind(ERROR, "RLE masks that can't be decoded", "Encode them again, by pycocotools for example."),
    "rle_wrong_size": Kind(
        ERROR, "RLE masks of another size than their image", "'size' is [height, width] of the image."
    ),
    "mask_empty": Kind(WARNING, "RLE masks without a pixel", "Correct or remove them."),
    "segmentation_missing": Kind(
        WARNING, "annotations without a mask, among others that have one", "Add masks, or set MODEL.MASK_ON False."
    ),
    "no_masks": Kind(WARNING, "annotations, all of them without masks", "Set MODEL.MASK_ON False."),
    "area_invalid": Kind(ERROR, "annotations whose area is not a number from 0 up", "Correct or recompute it."),
    "area_missing": Kind(
        WARNING, "annotations without 'area'", "Evaluation needs it, by size of objects; training doesn't."
    ),
}
# What only evaluation stumbles over.
EVALUATION_NEEDS = ("area_missing",)
# What the conversion of a dataset under DATASETS.CUSTOM fills in; MODEL.MASK_ON with missing masks is an error there.
FILLED_IN = ("area_missing", "segmentation_missing", "no_masks")


@dataclasses.dataclass(frozen=True)
class Problem(findings.Problem):
    """One of :data:`KINDS`."""

    KINDS = KINDS


@dataclasses.dataclass(frozen=True)
class Report(findings.Problems):
    """
    What :func:`balanced_lvis.data.validation.validate_annotations` found.

    Attributes:
        json_file: as it was given.
        num_images, num_categories: elements of these lists.
        num_annotations: also; None for a file without them, such as test-dev's, which has no ground truth.
        num_rles: RLE masks, which Detectron2's LVIS loader refuses.
        num_crowds: annotations with ``iscrowd`` 1.
        num_ignored: others with ``ignore`` 1.
        num_images_of: images of each folder, by its name.
        groups_problem: why the file's rare, common and frequent categories are unknown; empty where they are not.
        problems: in the order of :data:`KINDS`.
    """

    json_file: str
    num_images: int = 0
    num_annotations: int | None = None
    num_categories: int = 0
    num_rles: int = 0
    num_crowds: int = 0
    num_ignored: int = 0
    num_images_of: dict[str, int] = dataclasses.field(default_factory=dict)
    groups_problem: str = ""
    problems: tuple[Problem, ...] = ()

    def raise_errors(self, beside: Collection[str] = ()) -> None:
        """
        Args:
            beside: kinds of warnings that are errors here.

        Raises:
            InputError: if there are any: each kind with count, first offenders and remedy.
        """
        found = [problem for problem in self.problems if problem.severity == ERROR or problem.kind in beside]
        findings.refuse(f"Annotations {self.json_file}", found)

    def __str__(self):
        annotations = "no" if self.num_annotations is None else f"{self.num_annotations:,}"
        head = (
            f"{self.json_file}: {self.num_images:,} images, {annotations} annotations, "
            f"{self.num_categories:,} categories"
        )
        return "\n".join([head, *self.lines()])

    def to_dict(self) -> dict:
        """For JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, content: dict) -> Report:
        """
        Raises:
            KeyError, TypeError: if it is not what :meth:`to_dict` returned, or of another version.
        """
        problems = [Problem(p["kind"], p["count"], tuple(p["examples"])) for p in content["problems"]]
        if any(problem.kind not in KINDS for problem in problems):
            raise KeyError("kind")
        return cls(**{**content, "problems": tuple(problems)})
