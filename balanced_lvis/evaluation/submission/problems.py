"""What can be wrong with a submission, which of it the server would refuse or misread, and how it is told."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from ...utils import findings
from ...utils.findings import ERROR, WARNING, Kind

# kind: severity, title as words after a count, what to do. Errors are what the LVIS API or a decoder of masks refuses,
# crashes on, or takes for something else; warnings are what it drops, and what may be meant.
KINDS = {
    "not_json": Kind(ERROR, "file that is no JSON list to its end", "Write or copy it again."),
    "empty": Kind(ERROR, "file without a detection", "The LVIS API can't read an empty list."),
    "malformed": Kind(
        ERROR,
        "detections that can't be read",
        "Each has whole numbers 'image_id' and 'category_id', a number 'score', and 'segmentation' "
        '{"size": [height, width], "counts": "..."} or \'bbox\' [x, y, width, height].',
    ),
    "mixed": Kind(ERROR, "detections unlike the first", "A file has masks or boxes; the first detection tells which."),
    "bbox_in_mask_file": Kind(
        ERROR,
        "masks with a 'bbox' beside them",
        "Leave it out: width x height would be taken for the mask's area, which changes APs, APm and APl.",
    ),
    "unknown_image": Kind(ERROR, "detections in images that the data set doesn't have", "Predict on the right split."),
    "unknown_category": Kind(
        ERROR, "detections of categories that the data set doesn't have", "Use its own ids; they start at 1, not 0."
    ),
    "score_not_finite": Kind(ERROR, "scores that are NaN or infinite", "Leave these detections out."),
    "box_invalid": Kind(ERROR, "boxes that are not finite, or of negative size", "Write [x, y, width, height]."),
    "rle_wrong_size": Kind(ERROR, "masks of another size than their image", "'size' is [height, width] of the image."),
    "rle_undecodable": Kind(ERROR, "masks that can't be decoded", "Encode them again, by pycocotools for example."),
    "too_many": Kind(ERROR, "images with more than 300 detections", "Keep the 300 of the highest scores in each."),
    "no_area": Kind(WARNING, "masks or boxes without area", "They are not counted; leave them out."),
    "corners": Kind(
        WARNING,
        "boxes that leave their image as [x, y, width, height], while all would fit in it as two corners",
        "If they are [x1, y1, x2, y2], write [x1, y1, x2 - x1, y2 - y1].",
    ),
    "duplicate": Kind(WARNING, "detections that are there twice", "Look for a part that was written twice."),
    "missing_image": Kind(WARNING, "images without a detection", "Right only if the model has found nothing in them."),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Problem(findings.Problem):
    """One of :data:`KINDS`."""

    KINDS = KINDS


@dataclasses.dataclass(frozen=True)
class Report(findings.Problems):
    """
    What a submission holds, and what is wrong with it.

    Attributes:
        path: of the file.
        task: "segm" or "bbox", by the first detection; "" where there is none.
        num_detections: all of them, sound or not.
        num_images: images of the data set that have one.
        problems: in the order of :data:`KINDS`.
    """

    path: str
    task: str
    num_detections: int
    num_images: int
    problems: tuple[Problem, ...] = ()

    def raise_errors(self, but: Collection[str] = ()) -> None:
        """
        Args:
            but: kinds that don't matter here.

        Raises:
            InputError: if there are errors: each kind with its count, first offenders and remedy.
        """
        findings.refuse(f"Results {self.path}", [problem for problem in self.errors if problem.kind not in but])

    def __str__(self):
        kind = {"segm": "a mask file", "bbox": "a box file"}.get(self.task, "no detections")
        head = f"{self.path}: {kind}, {self.num_detections:,} detections in {self.num_images:,} images"
        return "\n".join([head, *self.lines()])
