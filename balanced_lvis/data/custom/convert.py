"""From any annotation file in COCO or LVIS format to one in LVIS format, in one pass and in bounded memory."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
from collections.abc import Mapping
from typing import IO, NamedTuple

from pycocotools import mask as mask_util
from tqdm import tqdm

from ...errors import InputError
from ...priors import frequency_group
from .. import frequency
from ..stream import stream_lists
from ..validation.checker import AnnotationChecker
from ..validation.paths import path_problem
from ..validation.rle import rle_problem
from ..validation.validate import LISTS, why_not_json
from .paths import Layout, choose_layout

logger = logging.getLogger(__name__)

FORMAT = "balanced_lvis custom data set 2"
_LARGEST_SIDE = 1 << 15  # pixels of a mask that is drawn for its area; pycocotools counts in 32 bits


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
        num_rles: masks that are run lengths.
        num_boxes: annotations without a mask, which have their box for one.
        federated: whether images say themselves which categories they are judged by.
        images_found: whether any image was there; where not, their paths are a guess, to be made again.
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
    num_rles: int = 0
    num_boxes: int = 0
    federated: bool = False
    images_found: bool = True
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
            return cls(**info)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no converted file: {error!r}") from error


def convert(
    json_file: str, image_root: str, output: IO[str], train: TrainCounts | None, source: Mapping[str, int]
) -> Summary:
    """
    Write an annotation file in LVIS format.

    - Crowd regions are no objects: they are left out, and their category is "not exhaustively annotated" in the image,
      so that what a model finds there is neither right nor wrong.
    - Where no image has ``neg_category_ids``, all images are taken for annotated exhaustively: every category that is
      not in an image is known to be absent.
    - Categories keep their ``frequency`` if all have one; else they get it by the number of training images. They get
      LVIS's ``image_count`` and ``instance_count``.
    - Images have a ``file_name`` relative to the folder of images, and no ``coco_url``.
    - Annotations are numbered anew, from 1 on; a missing ``area`` is that of the mask.

    Category ids stay as they are, so that results are in the file's own ids.

    Args:
        json_file: in COCO or LVIS format.
        image_root: the folder of images.
        output: a text file.
        train: what rare, common and frequent are judged by unless the file says it; None: this file's own counts.
        source: goes into the summary.

    Raises:
        InputError: for a file that can't be read or relied on: everything that is wrong with it.
    """
    conversion, checker, seen = _Conversion(json_file, output), AnnotationChecker(), set()
    output.write('{"annotations": [')
    with open(json_file, "rb") as raw:
        title = f"Converting {os.path.basename(json_file)}"
        with tqdm.wrapattr(raw, "read", total=source["size"], desc=title, disable=None) as file:
            try:
                for key, element in stream_lists(file, LISTS, optional=("annotations",), seen=seen):
                    checker.add(key, element)
                    conversion.add(key, element)
            except (ValueError, RecursionError) as error:
                if isinstance(error, InputError):
                    raise
                raise InputError(f"Annotations {json_file} can't be used: {why_not_json(raw, error)}.") from error
    checker.finish(json_file, "annotations" in seen).raise_errors()
    return conversion.finish(image_root, train, source)


class _Conversion:
    """What has been read so far; annotations are written as they come."""

    def __init__(self, json_file: str, output: IO[str]):
        self._json_file, self._output = json_file, output
        self._images: dict[int, dict] = {}
        self._categories: dict[int, dict] = {}
        self._present: dict[int, set[int]] = {}  # image id -> category ids
        self._crowded: dict[int, set[int]] = {}
        self._instances: dict[int, int] = {}  # category id -> annotations
        self._num = {"annotations": 0, "crowds": 0, "rles": 0, "boxes": 0}
        self._unusable = ""

    def add(self, key: str, element) -> None:
        """What can't be used is left to the checker, which has seen it and will refuse the file."""
        try:
            {"images": self._add_image, "categories": self._add_category, "annotations": self._add_annotation}[key](
                element
            )
        except (KeyError, TypeError, AttributeError, ValueError, IndexError, OverflowError) as error:
            self._unusable = self._unusable or f"{element!r:.200} in its {key} ({type(error).__name__}: {error})"

    def _add_image(self, image: dict) -> None:
        kept = ("id", "width", "height", "file_name", "coco_url", "neg_category_ids", "not_exhaustive_category_ids")
        made = {key: image[key] for key in kept if image.get(key) is not None}
        for key in ("file_name", "coco_url"):
            if not isinstance(made.get(key, ""), str):
                del made[key]
        for key in ("neg_category_ids", "not_exhaustive_category_ids"):
            ids = made.get(key, [])
            if not isinstance(ids, list) or not all(isinstance(i, int) for i in ids):
                raise TypeError(f"{key} is no list of whole numbers")
        self._images[image["id"]] = made

    def _add_category(self, category: dict) -> None:
        self._categories[category["id"]] = category

    def _add_annotation(self, annotation: dict) -> None:
        image_id, category_id = annotation["image_id"], annotation["category_id"]
        if annotation.get("iscrowd"):
            self._num["crowds"] += 1
            self._crowded.setdefault(image_id, set()).add(category_id)
            return
        segmentation = self._segmentation(annotation)
        area = annotation.get("area")
        made = {
            "id": self._num["annotations"] + 1,
            "image_id": image_id,
            "category_id": category_id,
            "bbox": annotation["bbox"],
            "area": _area(segmentation) if area is None else area,
            "segmentation": segmentation,
        }
        if annotation.get("ignore"):  # which the LVIS API knows
            made["ignore"] = 1
        text = json.dumps(made)
        self._output.write(f"{',' if self._num['annotations'] else ''}\n{text}")
        self._num["annotations"] += 1
        self._present.setdefault(image_id, set()).add(category_id)
        self._instances[category_id] = self._instances.get(category_id, 0) + 1

    def _segmentation(self, annotation: dict) -> list | dict:
        segmentation = annotation.get("segmentation")
        if not segmentation:
            self._num["boxes"] += 1
            x, y, width, height = annotation["bbox"]
            return [[x, y, x + width, y, x + width, y + height, x, y + height]]
        if isinstance(segmentation, dict):
            self._num["rles"] += 1
            is_list = isinstance(segmentation["counts"], list)
            # Before pycocotools reads it, which takes any bytes and goes wherever they lead.
            if (is_list or annotation.get("area") is None) and (problem := rle_problem(segmentation)):
                raise ValueError(problem)
            if is_list:
                segmentation = mask_util.frPyObjects(segmentation, *segmentation["size"])
                segmentation["counts"] = segmentation["counts"].decode("ascii")
        return segmentation

    def finish(self, image_root: str, train: TrainCounts | None, source: Mapping[str, int]) -> Summary:
        """
        Write what has to be known as a whole.

        Raises:
            InputError: for what the checker has let pass and can't be used all the same.
        """
        if self._unusable:
            raise InputError(f"Annotations {self._json_file} can't be used: {self._unusable}.")
        if not self._images or not self._categories:
            raise InputError(
                f"Annotations {self._json_file} have {len(self._images)} images and {len(self._categories)} "
                "categories, of which there must be some."
            )
        summary = self._summary(source, train)
        image_count = train.image_count if train else summary.image_count
        if len(image_count) != len(summary.category_ids):
            raise InputError(
                f"Annotations {self._json_file} have {len(summary.category_ids)} categories, but {train.owner} has "
                f"{len(image_count)}. Give both the same list of categories."
            )
        layout, found = choose_layout(image_root, list(self._images.values()))
        summary = dataclasses.replace(summary, images_found=found)
        self._output.write('\n],\n"images": [')
        self._write_list(self._image(image, layout, summary) for image in self._images.values())
        self._output.write('\n],\n"categories": [')
        self._write_list(self._categories_of(summary, image_count, known=train is not None))
        info = {"format": FORMAT, **dataclasses.asdict(summary)}
        self._output.write(f'\n],\n"info": {json.dumps(info)}}}\n')
        return summary

    def _summary(self, source: Mapping[str, int], train: TrainCounts | None) -> Summary:
        ids = sorted(self._categories)
        image_count = dict.fromkeys(ids, 0)
        for present in self._present.values():
            for category_id in present:
                image_count[category_id] += 1
        federated = any("neg_category_ids" in image for image in self._images.values())
        return Summary(
            source=dict(source),
            category_ids=ids,
            class_names=[self._categories[i]["name"] for i in ids],
            image_count=list(image_count.values()),
            instance_count=[self._instances.get(i, 0) for i in ids],
            num_images=len(self._images),
            num_crowds=self._num["crowds"],
            num_rles=self._num["rles"],
            num_boxes=self._num["boxes"],
            federated=federated,
            groups=self._groups(train),
            groups_problem=frequency.groups_problem([*self._categories.values()]),
        )

    def _groups(self, train: TrainCounts | None) -> str:
        if frequency.has_own_groups([*self._categories.values()]):
            return frequency.FILE
        return frequency.TRAINING if train else frequency.OWN_IMAGES

    def _image(self, image: dict, layout: Layout, summary: Summary) -> dict:
        present, crowded = (of.get(image["id"], set()) for of in (self._present, self._crowded))
        path = layout.path(image)
        if problem := path_problem(path):
            raise InputError(f"Annotations {self._json_file}: {path!r:.100}, the path of an image, {problem}.")
        negative = image.get("neg_category_ids", [])
        if not summary.federated:
            negative = [i for i in summary.category_ids if i not in present and i not in crowded]
        return {
            "id": image["id"],
            "width": image["width"],
            "height": image["height"],
            "file_name": path,
            "neg_category_ids": negative,
            "not_exhaustive_category_ids": sorted({*image.get("not_exhaustive_category_ids", []), *crowded}),
        }

    def _categories_of(self, summary: Summary, image_count: list[int], known: bool):
        """``known``: whether ``image_count`` is of training images; else the file's own number is, where it has one."""
        own_groups = summary.groups == frequency.FILE
        for i, images, instances in zip(summary.category_ids, image_count, summary.instance_count):
            category = self._categories[i]
            own_count = category.get("image_count")
            yield {
                **category,
                "frequency": category["frequency"] if own_groups else frequency_group(images),
                "image_count": own_count if own_groups and not known and type(own_count) is int else images,
                "instance_count": instances,
            }

    def _write_list(self, elements) -> None:
        for number, element in enumerate(elements):
            self._output.write(f"{',' if number else ''}\n{json.dumps(element)}")


def _area(segmentation: list | dict) -> float:
    """In pixels, of a mask whose image's size may not be known yet."""
    if isinstance(segmentation, dict):
        return float(mask_util.area(segmentation))
    if any(len(polygon) < 6 or len(polygon) % 2 for polygon in segmentation):
        raise ValueError("a polygon is of less than three points, or has a coordinate too many")
    corner = [max(0, math.floor(min(min(polygon[axis::2]) for polygon in segmentation))) for axis in (0, 1)]
    # Whole pixels nearer to the origin it is the same mask.
    moved = [[value - corner[i % 2] for i, value in enumerate(polygon)] for polygon in segmentation]
    side = max(1, *(math.ceil(max(polygon)) for polygon in moved)) + 1
    if side > _LARGEST_SIDE:
        raise ValueError(f"a polygon is {side} pixels wide or high")
    return float(mask_util.area(mask_util.merge(mask_util.frPyObjects(moved, side, side))))
