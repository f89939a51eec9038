"""Report of the checks of an annotation file: kinds of problems, their severity and remedies."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from ...utils import findings
from ...utils.findings import ERROR, WARNING, Kind

# Errors stop training or evaluation or silently falsify them; Detectron2 handles warnings.
KINDS = {
    "not_json": Kind(ERROR, "file that is not a complete JSON object", "Download or export it again, and unzip it."),
    "no_images": Kind(ERROR, "file without images", "List them under 'images', as in COCO and LVIS files."),
    "no_categories": Kind(ERROR, "file without categories", "List them under 'categories', as in COCO and LVIS files."),
    # images
    "malformed_image": Kind(
        ERROR, "image records that can't be read", "Each needs an integer 'id', 'width', 'height', and a path."
    ),
    "duplicate_image_id": Kind(ERROR, "repeated image ids", "Number images so that ids are unique."),
    "path_leaves_root": Kind(
        ERROR, "image paths that point outside the image folder", "Make paths relative to it, without '..'."
    ),
    "image_missing": Kind(
        ERROR, "images that are not on disk", "Add them, correct the path of the image folder, or train without them."
    ),
    "image_unreadable": Kind(ERROR, "images that can't be read", "Download or save them again."),
    "image_size_differs": Kind(
        ERROR,
        "images whose size differs from the annotated size",
        "Correct 'width' and 'height', or use the original images.",
    ),
    "path_respelled": Kind(
        WARNING,
        "image paths for which a file exists only with / for \\, percent-decoded or in another Unicode form",
        "Those files are used; correct the paths.",
    ),
    "same_file": Kind(
        WARNING, "images that have the same file as another image", "Merge them, unless this is intended."
    ),
    "not_federated": Kind(
        WARNING,
        "images in LVIS format without 'neg_category_ids' or 'not_exhaustive_category_ids'",
        "Add both lists, or name the file under DATASETS.CUSTOM: evaluation needs them; training doesn't.",
    ),
    "negatives_empty": Kind(
        WARNING,
        "images whose 'neg_category_ids' are empty in the whole file",
        "Detections of a category in images without its objects aren't counted as wrong, so that AP is too high. List "
        "the categories that are absent, or, if annotation is exhaustive, remove the field and name the file under "
        "DATASETS.CUSTOM.",
    ),
    # categories
    "malformed_category": Kind(
        ERROR, "category records that can't be read", "Each needs an integer 'id' and a 'name'."
    ),
    "duplicate_category_id": Kind(ERROR, "repeated category ids", "Number categories so that ids are unique."),
    "duplicate_category_name": Kind(WARNING, "repeated category names", "Give each category a unique name."),
    # annotations
    "malformed_annotation": Kind(
        ERROR,
        "annotations that can't be read",
        "Each needs an integer 'id', 'image_id', 'category_id', and 'bbox' [x, y, width, height].",
    ),
    "flag_invalid": Kind(
        ERROR,
        "annotations whose 'iscrowd' or 'ignore' is not 0, 1, true, false or null",
        "Write 0 or 1 as a number, without quotes.",
    ),
    "no_objects": Kind(
        ERROR,
        "annotations, all with 'iscrowd' or 'ignore' 1: the file has no objects",
        "Crowd regions and ignored objects are not used for training or evaluation. Some tools, such as CVAT, write "
        "'iscrowd' 1 for every RLE mask: set it to 0 where a mask is one object.",
    ),
    "category_without_objects": Kind(
        WARNING,
        "categories whose annotations all have 'iscrowd' or 'ignore' 1",
        "They are not used for training or evaluation; set 'iscrowd' to 0 where a mask is one object.",
    ),
    "crowd_in_lvis": Kind(
        ERROR,
        "annotations with 'iscrowd' 1 in LVIS format: Detectron2 and the LVIS API treat them as objects",
        "Name the file under DATASETS.CUSTOM, which leaves crowd regions out, or remove them.",
    ),
    "object_again": Kind(
        WARNING,
        "annotations with the same category and the same mask or box as another one of their image",
        "Remove the copies: an object can be detected only once.",
    ),
    "duplicate_annotation_id": Kind(ERROR, "repeated annotation ids", "Number annotations uniquely."),
    "unknown_image_id": Kind(
        ERROR, "annotations of images that are not in 'images'", "Remove them, or add the images."
    ),
    "unknown_category_id": Kind(
        ERROR, "annotations of categories that are not in 'categories'", "Correct category_id, or add the categories."
    ),
    "unknown_federated_id": Kind(
        WARNING,
        "images whose neg_category_ids or not_exhaustive_category_ids are not in 'categories'",
        "Correct them; they define the categories that are evaluated in an image.",
    ),
    "box_not_finite": Kind(ERROR, "boxes with NaN or infinite values", "Correct or remove them."),
    "box_negative_size": Kind(
        ERROR, "boxes of negative width or height", "Write boxes as [x, y, width, height], not as two corners."
    ),
    "box_off_image": Kind(
        WARNING,
        "boxes completely outside their image",
        "Training leaves them out, evaluation counts them as missed; correct the box, or the image's width and height.",
    ),
    "box_zero_area": Kind(WARNING, "boxes without area", "Training leaves them out; correct or remove them."),
    "box_outside_image": Kind(
        WARNING, "boxes that exceed their image by more than a pixel", "Training clips them; correct them."
    ),
    "boxes_normalised": Kind(
        WARNING,
        "boxes, all with coordinates between 0 and 1",
        "Boxes are in pixels: multiply x and width by the image's width, y and height by its height.",
    ),
    "box_differs": Kind(
        WARNING,
        "boxes that differ from their mask by more than 2 pixels and 5 % of its side",
        "Both are used for training; write boxes as [x, y, width, height] of the mask.",
    ),
    "polygon_too_short": Kind(ERROR, "polygons of fewer than 3 points", "Correct or remove them."),
    "polygon_odd": Kind(ERROR, "polygons with an odd number of coordinates", "Write them as [x, y, x, y, ...]."),
    "polygon_not_finite": Kind(ERROR, "polygons with NaN or infinite coordinates", "Correct or remove them."),
    "polygon_outside_image": Kind(
        WARNING, "masks that exceed their image by more than a pixel", "The part outside is ignored; correct them."
    ),
    "rle_undecodable": Kind(
        ERROR, "RLE masks that can't be decoded", "Encode them again, for example with pycocotools."
    ),
    "rle_wrong_size": Kind(
        ERROR, "RLE masks whose size differs from their image's", "Set 'size' to [height, width] of the image."
    ),
    "mask_empty": Kind(WARNING, "empty RLE masks", "Correct or remove them."),
    "segmentation_missing": Kind(
        WARNING, "annotations without a mask, while others have one", "Add masks, or set MODEL.MASK_ON False."
    ),
    "no_masks": Kind(WARNING, "annotations, all without masks", "Set MODEL.MASK_ON False."),
    "area_invalid": Kind(ERROR, "annotations whose area is not a number of at least 0", "Correct or recompute it."),
    "area_missing": Kind(WARNING, "annotations without 'area'", "Add it: APs, APm and APl need it; training doesn't."),
}
# Warnings that are errors for evaluation.
EVALUATION_NEEDS = ("area_missing", "not_federated")
# Filled in by conversion. With MODEL.MASK_ON, missing masks are an error there.
FILLED_IN = ("area_missing", "not_federated", "segmentation_missing", "no_masks")


@dataclasses.dataclass(frozen=True)
class Problem(findings.Problem):
    """A problem of one of :data:`KINDS`."""

    KINDS = KINDS


@dataclasses.dataclass(frozen=True)
class Report(findings.Problems):
    """
    Result of :func:`balanced_lvis.data.validation.validate_annotations`.

    Attributes:
        json_file: path of the file, as it was given.
        num_images, num_categories: length of these lists.
        num_annotations: also; None for a file without them, such as that of test-dev, which has no ground truth.
        num_rles: number of RLE masks, which Detectron2's LVIS loader refuses.
        num_crowds: number of annotations with ``iscrowd`` 1.
        num_ignored: number of other annotations with ``ignore`` 1.
        num_images_of: folder name -> number of its images.
        groups_problem: why the file's rare, common and frequent categories are unknown; "" if they are known.
        problems: all problems, in the order of :data:`KINDS`.
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

    def raise_errors(self, also: Collection[str] = ()) -> None:
        """
        Args:
            also: kinds of warnings that are errors, too.

        Raises:
            InputError: if there are errors: each kind with its count, first examples and remedy.
        """
        found = [problem for problem in self.problems if problem.severity == ERROR or problem.kind in also]
        findings.refuse(f"Annotations {self.json_file}", found)

    def __str__(self):
        annotations = "no" if self.num_annotations is None else f"{self.num_annotations:,}"
        head = (
            f"{self.json_file}: {self.num_images:,} images, {annotations} annotations, "
            f"{self.num_categories:,} categories"
        )
        return "\n".join([head, *self.lines()])

    def to_dict(self) -> dict:
        """The report as a dict for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, content: dict) -> Report:
        """
        Raises:
            KeyError, TypeError: if ``content`` is not from :meth:`to_dict` of this version.
        """
        problems = [Problem(p["kind"], p["count"], tuple(p["examples"])) for p in content["problems"]]
        if any(problem.kind not in KINDS for problem in problems):
            raise KeyError("kind")
        return cls(**{**content, "problems": tuple(problems)})
