"""Converted files: the summary in their last line, and their records in Detectron2's standard format."""

from __future__ import annotations

import dataclasses
import json
import os
from collections import defaultdict
from collections.abc import Mapping

from detectron2.structures import BoxMode

from ...utils.io import open_regular
from .. import frequency
from ..annotations.annotation_reader import Annotation, Image, RecordError, read_records
from ..images.image_paths import COCO, image_path
from ..validation.validation_report import Report

FORMAT = "balanced_lvis custom data set 3"


@dataclasses.dataclass(frozen=True)
class ConversionSummary:
    """
    Summary of a conversion, in the last line of the converted file.

    Attributes:
        source: size and mtime_ns of the original file.
        category_ids, class_names: K of each, by ascending id, the order of the classifier's outputs.
        image_count, instance_count: K of each, counted in this file.
        num_images: number of images, with or without annotations.
        num_crowds: number of crowd regions, which became "not exhaustively annotated".
        num_ignored: number of objects with ``ignore`` 1, which are used by the evaluation only.
        num_rles: number of RLE masks.
        num_boxes: number of annotations without a mask, whose mask is their box.
        federated: whether the original file has ``neg_category_ids``.
        images_found: whether any image was found. If not, the paths are a guess, and the file is converted again.
        report: problems of the original file; no errors.
        groups: source of the frequency groups, a constant of :mod:`balanced_lvis.data.frequency`.
        groups_problem: why the groups in the original file can't be used; "" if they can, or if it has none.
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
    def read(cls, path: str | os.PathLike) -> ConversionSummary:
        """
        Read the summary from the last line of a converted file, without reading the rest.

        Raises:
            OSError: if the file can't be read.
            ValueError: if it is not a converted file, or of another version.
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
            raise ValueError(f"not a converted file: {error!r}") from error


def load_converted(json_file: str, image_root: str, contiguous_ids: Mapping[int, int]) -> list[dict]:
    """
    Load all images of a file that :func:`balanced_lvis.data.custom.convert.convert` wrote, in Detectron2's standard
    format. Objects with ``ignore`` 1 are left out.

    For files without RLE masks, :class:`balanced_lvis.data.index.LVISRecords` has equal records and takes less memory.

    Args:
        json_file: path of the converted file.
        image_root: the folder of images, with a separator at its end.
        contiguous_ids: category ids of the file -> 0..K-1.

    Returns:
        one record per image, by ascending id.
    """
    images: list[Image] = []
    annotations = defaultdict(list)
    with open_regular(json_file) as file:
        for _, record in read_records(file):
            if isinstance(record, RecordError):
                raise record
            if isinstance(record, Image):
                images.append(record)
            elif isinstance(record, Annotation) and record.is_object:
                annotations[record.image_id].append(
                    {
                        "bbox": record.box,
                        "bbox_mode": BoxMode.XYWH_ABS,
                        "category_id": contiguous_ids[record.category_id],
                        "segmentation": record.segmentation,
                    }
                )
    return [
        {
            "file_name": os.path.join(image_root, image_path(image, COCO)),
            "height": image.height,
            "width": image.width,
            "not_exhaustive_category_ids": image.not_exhaustive,
            "neg_category_ids": image.negative,
            "image_id": image.id,
            "annotations": annotations[image.id],
        }
        for image in sorted(images, key=lambda image: image.id)
    ]
