"""What a converted file says about itself, and what it is made with."""

from __future__ import annotations

import dataclasses
import json
import os
from typing import NamedTuple

from .. import frequency
from ..validation.validation_report import Report

FORMAT = "balanced_lvis custom data set 3"


class TrainCounts(NamedTuple):
    """
    Attributes:
        image_count: K, training images of every category, by ascending id.
        owner: whose they are, for messages.
        class_names: K, of these categories.
    """

    image_count: list[int]
    owner: str
    class_names: list[str]


@dataclasses.dataclass(frozen=True)
class Summary:
    """
    What a converted file says about itself, in its last line.

    Attributes:
        source: size and mtime_ns of the file that it was made from.
        category_ids, class_names: K of each, by ascending id: the classifier's order.
        image_count, instance_count: K of each, of this file's annotations.
        num_images: all, with or without annotations.
        num_crowds: regions that became "not exhaustively annotated here".
        num_ignored: objects with ``ignore`` 1, which only the evaluation knows.
        num_rles: RLE masks.
        num_boxes: annotations without a mask, which have their box for one.
        federated: whether images say themselves which categories they are judged by.
        images_found: whether any image was there; where not, their paths are a guess, to be made again.
        report: what is wrong with the file that it was made from; no errors.
        groups: what rare, common and frequent follow from, as :mod:`balanced_lvis.data.frequency` says it.
        groups_problem: why the file's own groups can't be used, although it has some; empty where nothing is wrong.
    """

    source: dict[str, int]
    category_ids: list[int]
    class_names: list[str]
    image_count: list[int]
    instance_count: list[int]
    num_images: int
    num_crowds: int = 0
    num_ignored: int = 0
    num_rles: int = 0
    num_boxes: int = 0
    federated: bool = False
    images_found: bool = True
    report: Report = dataclasses.field(default_factory=lambda: Report(""))
    groups: str = frequency.TRAINING
    groups_problem: str = ""

    @classmethod
    def read(cls, path: str | os.PathLike) -> Summary:
        """
        From a converted file's last line, however long the file is.

        Raises:
            OSError: if it can't be read.
            ValueError: if it is none, or of another version.
        """
        with open(path, "rb") as file:
            size, part = file.seek(0, os.SEEK_END), 1 << 16
            while True:
                file.seek(max(0, size - part))
                _, newline, line = file.read().rstrip().rpartition(b"\n")
                if newline or part >= size:
                    break
                part *= 4
        try:
            info = json.loads(b"{" + line)["info"]
            if info.pop("format") != FORMAT:
                raise ValueError("another version")
            return cls(**{**info, "report": Report.from_dict(info["report"])})
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no converted file: {error!r}") from error
