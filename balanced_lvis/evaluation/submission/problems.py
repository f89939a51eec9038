"""The kinds of problems in a submission, and the report of a check."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from ...utils import findings
from ...utils.findings import ERROR, WARNING, Kind

# Errors are what the LVIS API or a mask decoder rejects, crashes on or misinterprets. Warnings are what it drops, or
# what may be a mistake.
KINDS = {
    "not_json": Kind(ERROR, "file that is not a complete JSON list", "Write or copy the file again."),
    "empty": Kind(ERROR, "file without detections", "Add detections: the LVIS API can't read an empty list."),
    "malformed": Kind(
        ERROR,
        "detections that can't be read",
        "Each needs integers 'image_id' and 'category_id', a number 'score', and 'segmentation' "
        '{"size": [height, width], "counts": "..."} or \'bbox\' [x, y, width, height].',
    ),
    "mixed": Kind(
        ERROR, "detections of a type (mask or box) unlike the first", "Write masks and boxes to separate files."
    ),
    "bbox_in_mask_file": Kind(
        ERROR,
        "masks with a 'bbox'",
        "Remove it: the LVIS API would use width x height as the area of the mask, which changes APs, APm and APl.",
    ),
    "unknown_image": Kind(ERROR, "detections in images that are not in the dataset", "Use results of the same split."),
    "unknown_category": Kind(
        ERROR,
        "detections of categories that are not in the dataset",
        "Use the category ids of the annotation file, not class indices.",
    ),
    "score_not_finite": Kind(ERROR, "scores that are NaN or infinite", "Remove these detections."),
    "box_invalid": Kind(ERROR, "boxes that are not finite, or of negative size", "Write [x, y, width, height]."),
    "rle_wrong_size": Kind(
        ERROR, "masks whose size differs from their image's", "Set 'size' to [height, width] of the image."
    ),
    "rle_undecodable": Kind(ERROR, "masks that can't be decoded", "Encode them again, for example with pycocotools."),
    "too_many": Kind(ERROR, "images with more than 300 detections", "Keep the 300 highest-scoring ones of each image."),
    "no_area": Kind(WARNING, "masks or boxes without area", "They do not count; remove them."),
    "corners": Kind(
        WARNING,
        "boxes that exceed their image as [x, y, width, height], while all boxes fit as two corners",
        "If they are [x1, y1, x2, y2], write [x1, y1, x2 - x1, y2 - y1].",
    ),
    "duplicate": Kind(WARNING, "duplicate detections", "Check whether a part was written twice."),
    "missing_image": Kind(WARNING, "images without detections", "Correct only if the model found nothing in them."),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Problem(findings.Problem):
    """One of :data:`KINDS`."""

    KINDS = KINDS


@dataclasses.dataclass(frozen=True)
class Report(findings.Problems):
    """
    Content and problems of a submission.

    Attributes:
        path: path of the file.
        task: "segm" or "bbox", the type of the first detection; "" without detections.
        num_detections: number of detections, valid or not.
        num_images: number of images of the dataset with a detection.
        problems: the problems, in the order of :data:`KINDS`.
    """

    path: str
    task: str
    num_detections: int
    num_images: int
    problems: tuple[Problem, ...] = ()

    def raise_errors(self, but: Collection[str] = ()) -> None:
        """
        Args:
            but: kinds to ignore.

        Raises:
            InputError: if there are errors. The message lists each kind with its count, first cases and remedy.
        """
        findings.refuse(f"Results {self.path}", [problem for problem in self.errors if problem.kind not in but])

    def __str__(self):
        kind = {"segm": "a mask file", "bbox": "a box file"}.get(self.task, "no detections")
        head = f"{self.path}: {kind}, {self.num_detections:,} detections in {self.num_images:,} images"
        return "\n".join([head, *self.lines()])
