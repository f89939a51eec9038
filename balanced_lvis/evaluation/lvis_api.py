"""
The LVIS API (``lvis`` on PyPI), made compatible with current NumPy.

``lvis.eval`` of version 0.5.3 uses ``np.float``, which NumPy 1.24 removed. Only that module gets a proxy of NumPy with
this name; NumPy itself is not changed.
"""

from __future__ import annotations

import logging
import math
import types
from collections.abc import Collection, Sequence

import numpy as np

from ..data.annotations.annotation_reader import read_flag
from ..data.annotations.json_stream import load_json
from ..utils.errors import InputError
from ..utils.once import once

try:
    import lvis.eval
    from lvis import LVIS as OFFICIAL_LVIS
    from lvis import LVISEval, LVISResults
except ImportError as error:
    raise ImportError(
        f"The LVIS API can't be imported ({error}). If it is missing: pip install lvis==0.5.3. If libGL is: "
        "pip uninstall -y opencv-python && pip install opencv-python-headless"
    ) from error

logger = logging.getLogger(__name__)

# The API's names of average precision, and of average recall with 300 detections per image.
METRICS = (
    *("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf"),
    *("AR@300", "ARs@300", "ARm@300", "ARl@300"),
)
IOU_TYPES = ("bbox", "segm")
# Limit of the LVIS challenge, over all categories.
MAX_DETECTIONS_PER_IMAGE = 300


class _NumPyWithFloat(types.ModuleType):
    """Proxy of NumPy with ``float``."""

    float = float

    def __getattr__(self, name):
        return getattr(np, name)


if not hasattr(np, "float"):
    lvis.eval.np = _NumPyWithFloat("numpy")


class LVIS(OFFICIAL_LVIS):
    """
    An annotation file. It may have no ``annotations``, as test-dev's; then there is nothing to evaluate.

    Raises:
        InputError: if ``ignore`` of an annotation is neither 0 nor 1.
    """

    def _load_json(self, path):
        content = load_json(path)
        if isinstance(content, dict):
            content.setdefault("annotations", [])
            _check_flags(path, content["annotations"])
        return content

    def only(self, image_ids: Collection[int]) -> LVIS:
        """The annotations of some of the images, with the same categories and groups. Nothing is copied."""
        kept = set(image_ids)
        part = type(self).__new__(type(self))
        part.logger = self.logger
        part.dataset = {
            **self.dataset,
            "images": [image for image in self.dataset["images"] if image["id"] in kept],
            "annotations": [one for one in self.dataset["annotations"] if one["image_id"] in kept],
        }
        part._create_index()
        return part


def _check_flags(path: str, annotations) -> None:
    """Convert ``ignore`` to an integer: the API treats any value that is true, such as "0", as 1."""
    for annotation in annotations if isinstance(annotations, list) else ():
        if isinstance(annotation, dict) and "ignore" in annotation:
            try:
                annotation["ignore"] = int(read_flag(annotation, "ignore"))
            except ValueError as error:
                raise InputError(
                    f"Annotations {path} can't be used: annotation {annotation.get('id')!r:.60}: {error}; write 0 or 1."
                ) from error


class _NoResults(LVISResults):
    """An empty list of results, which the API does not support."""

    def __init__(self, lvis_gt: LVIS):
        self.logger = lvis_gt.logger
        self.dataset = {**lvis_gt.dataset, "annotations": []}
        self._create_index()


def evaluate_on_lvis(
    lvis_gt: LVIS, results: list[dict], iou_type: str, max_dets: int = MAX_DETECTIONS_PER_IMAGE
) -> tuple[dict[str, float], dict[int, float]]:
    """
    Evaluate detections with the LVIS API.

    Args:
        lvis_gt: ground truth. For "segm", the API converts its polygons to RLE in place.
        results: one dict per detection: image_id, category_id (id in the dataset), score, and bbox [x, y, w, h] or
            segmentation (RLE). Not modified.
        iou_type: "bbox" or "segm".
        max_dets: number of highest-scoring detections kept per image, over all categories.

    Returns:
        metrics: the 13 metrics of :data:`METRICS` in percent; NaN without ground truth.
        per_category: AP in percent by category id; NaN for a category without ground truth.

    Raises:
        InputError: for an unknown ``iou_type``, or results on images that are not in the ground truth.
    """
    check_iou_type(iou_type)
    unknown = {r["image_id"] for r in results} - set(lvis_gt.imgs)
    if unknown:
        raise unknown_images(unknown)
    # With a "bbox" entry, the API uses w*h as the area, for masks too. That would change APs, APm and APl.
    wanted = ("image_id", "category_id", "score", "bbox" if iou_type == "bbox" else "segmentation")
    results = [{key: result[key] for key in wanted} for result in results]
    lvis_dt = LVISResults(lvis_gt, results, max_dets=max_dets) if results else _NoResults(lvis_gt)
    evaluation = LVISEval(lvis_gt, lvis_dt, iou_type)
    evaluation.run()
    return summarise(evaluation)


def check_iou_type(iou_type: str) -> None:
    """
    Check the type of a task.

    Raises:
        InputError: if it is not "bbox" or "segm".
    """
    if iou_type not in IOU_TYPES:
        raise InputError(f"iou_type is {iou_type!r}; valid: {', '.join(map(repr, IOU_TYPES))}.")


def tasks_of(with_masks: bool) -> tuple[str, ...]:
    """The tasks for detections with or without masks."""
    return IOU_TYPES if with_masks else ("bbox",)


def possible_tasks(tasks: Sequence[str], lvis_gt: LVIS, name: str) -> tuple[str, ...]:
    """
    Args:
        tasks: "bbox", "segm" or both.
        lvis_gt: the annotations of a dataset.
        name: name of the dataset, or path of the file, for messages.

    Returns:
        the tasks, without "segm" if annotations have no masks.

    Raises:
        InputError: if annotations have no masks, and only "segm" is requested.
    """
    missing = annotations_without_masks(lvis_gt) if "segm" in tasks else 0
    if not missing:
        return tuple(tasks)
    problem = f"{missing:,} of {len(lvis_gt.anns):,} annotations of {name} have no mask"
    if "bbox" not in tasks:
        raise InputError(f"{problem}, so masks can't be evaluated; add masks, or evaluate boxes.")
    _log_boxes_only(problem)
    return ("bbox",)


def annotations_without_masks(lvis_gt: LVIS) -> int:
    """Number of annotations without masks. In a converted file, their masks are the corners of their boxes."""
    info = lvis_gt.dataset.get("info")
    if isinstance(info, dict) and info.get("num_boxes"):
        return info["num_boxes"]
    return sum(not annotation.get("segmentation") for annotation in lvis_gt.anns.values())


@once
def _log_boxes_only(problem: str) -> None:
    logger.warning("%s: only boxes are evaluated.", problem)


def unknown_images(image_ids: set[int]) -> InputError:
    """The error for results on images that are not in the ground truth."""
    return InputError(
        f"results contain {len(image_ids)} image(s) that are not in the annotation file, e.g. image_id "
        f"{min(image_ids)}; evaluate them with the annotations of the same split."
    )


def summarise(evaluation: LVISEval) -> tuple[dict[str, float], dict[int, float]]:
    """Metrics and AP per category of a finished evaluation, as :func:`evaluate_on_lvis` returns them."""
    found = evaluation.get_results()
    return {name: _percent(found[name]) for name in METRICS}, _per_category(evaluation)


def _per_category(evaluation: LVISEval) -> dict[int, float]:
    precision = evaluation.eval["precision"][:, :, :, 0]  # IoU threshold, recall, category; all areas
    averages = {}
    for index, category_id in enumerate(evaluation.params.cat_ids):
        values = precision[:, :, index]
        averages[category_id] = _percent(values[values > -1].mean() if np.any(values > -1) else -1)
    return averages


def _percent(value: float) -> float:
    """In percent; NaN for -1, the API's value without ground truth."""
    return float(value) * 100 if value > -1 else math.nan
