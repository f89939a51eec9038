"""What can be wrong with a submission, which of it the server would refuse or misread, and how it is told."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from ...errors import InputError

ERROR, WARNING = "error", "warning"
SHOWN = 5  # offenders of a kind that a report names

# kind: severity, title as words after a count, what to do. Errors are what the LVIS API or a decoder of masks refuses,
# crashes on, or takes for something else; warnings are what it drops, and what may be meant.
KINDS = {
    "not_json": (ERROR, "file that is no JSON list to its end", "Write or copy it again."),
    "empty": (ERROR, "file without a detection", "The LVIS API can't read an empty list."),
    "malformed": (
        ERROR,
        "detections that can't be read",
        "Each has whole numbers 'image_id' and 'category_id', a number 'score', and 'segmentation' "
        '{"size": [height, width], "counts": "..."} or \'bbox\' [x, y, width, height].',
    ),
    "mixed": (ERROR, "detections unlike the first", "A file has masks or boxes; the first detection tells which."),
    "bbox_in_mask_file": (
        ERROR,
        "masks with a 'bbox' beside them",
        "Leave it out: width x height would be taken for the mask's area, which changes APs, APm and APl.",
    ),
    "unknown_image": (ERROR, "detections in images that the data set doesn't have", "Predict on the right split."),
    "unknown_category": (
        ERROR, "detections of categories that the data set doesn't have", "Use its own ids; they start at 1, not 0."
    ),
    "score_not_finite": (ERROR, "scores that are NaN or infinite", "Leave these detections out."),
    "box_invalid": (ERROR, "boxes that are not finite, or of negative size", "Write [x, y, width, height]."),
    "rle_wrong_size": (ERROR, "masks of another size than their image", "'size' is [height, width] of the image."),
    "rle_undecodable": (ERROR, "masks that can't be decoded", "Encode them again, by pycocotools for example."),
    "too_many": (ERROR, "images with more than 300 detections", "Keep the 300 of the highest scores in each."),
    "no_area": (WARNING, "masks or boxes without area", "They are not counted; leave them out."),
    "duplicate": (WARNING, "detections that are there twice", "Look for a part that was written twice."),
    "missing_image": (WARNING, "images without a detection", "Right only if the model has found nothing in them."),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Problem:
    """
    Attributes:
        kind: a key of :data:`KINDS`.
        count: how often it occurs.
        examples: the first ones, in words.
    """

    kind: str
    count: int
    examples: tuple[str, ...]

    @property
    def severity(self) -> str:
        """ "error" or "warning"."""
        return KINDS[self.kind][0]

    def __str__(self):
        _, title, remedy = KINDS[self.kind]
        more = ", ..." if self.count > len(self.examples) else ""
        examples = f": {'; '.join(self.examples)}{more}" if self.examples else ""
        return f"{self.severity}: {self.count:,} {title}{examples}. {remedy}"


@dataclasses.dataclass(frozen=True)
class Report:
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

    @property
    def errors(self) -> list[Problem]:
        """The problems that are errors."""
        return [problem for problem in self.problems if problem.severity == ERROR]

    @property
    def ok(self) -> bool:
        """Whether there are no errors."""
        return not self.errors

    def count(self, kind: str) -> int:
        """How often a kind of problem occurs."""
        return sum(problem.count for problem in self.problems if problem.kind == kind)

    def raise_errors(self, but: Collection[str] = ()) -> None:
        """
        Args:
            but: kinds that don't matter here.

        Raises:
            InputError: if there are errors: each kind with its count, first offenders and remedy.
        """
        if found := [problem for problem in self.errors if problem.kind not in but]:
            lines = "\n".join(f"  {str(problem).split(': ', 1)[1]}" for problem in found)
            raise InputError(f"Results {self.path} can't be used:\n{lines}")

    def __str__(self):
        kind = {"segm": "a mask file", "bbox": "a box file"}.get(self.task, "no detections")
        lines = [f"{self.path}: {kind}, {self.num_detections:,} detections in {self.num_images:,} images"]
        lines += [f"  {problem}" for problem in self.problems] or ["  no problem found"]
        return "\n".join(lines)


class Findings:
    """Problems while they are found: of each kind the number, and the first in words."""

    def __init__(self):
        self._counts: dict[str, int] = {}
        self._examples: dict[str, list[str]] = {}

    def add(self, kind: str, examples: Collection[str], count: int | None = None) -> None:
        """Count problems; ``examples`` are those that are kept if they are among the first."""
        self._counts[kind] = self._counts.get(kind, 0) + (len(examples) if count is None else count)
        shown = self._examples.setdefault(kind, [])
        shown += list(examples)[: SHOWN - len(shown)]

    def __contains__(self, kind: str) -> bool:
        return kind in self._counts

    def errors(self, but: Collection[str] = ()) -> bool:
        """Whether there are errors of other kinds than these."""
        return any(KINDS[kind][0] == ERROR and kind not in but for kind in self._counts)

    def problems(self) -> tuple[Problem, ...]:
        """In the order of :data:`KINDS`."""
        return tuple(Problem(k, self._counts[k], tuple(self._examples[k])) for k in KINDS if self._counts.get(k))
