"""
The official LVIS API (``lvis`` on PyPI), usable on today's NumPy.

``lvis`` 0.5.3 still says ``np.float``, which NumPy 1.24 removed, in one place of ``lvis.eval``. That module, and no
other, is given a view of NumPy in which the name exists; NumPy itself stays as it is.
"""

from __future__ import annotations

import json
import math
import types

import numpy as np

from ..data.annotation_reader import read_flag
from ..utils.errors import InputError

try:
    import lvis.eval
    from lvis import LVIS as OFFICIAL_LVIS
    from lvis import LVISEval, LVISResults
except ImportError as error:
    raise ImportError(
        f"The LVIS API can't be imported ({error}). If it is missing: pip install lvis==0.5.3. If libGL is: "
        "pip uninstall -y opencv-python && pip install opencv-python-headless"
    ) from error

# The official names of average precision and, at 300 detections per image, average recall.
METRICS = (
    *("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf"),
    *("AR@300", "ARs@300", "ARm@300", "ARl@300"),
)
IOU_TYPES = ("bbox", "segm")
# The LVIS challenge's limit, over all categories of an image.
MAX_DETECTIONS_PER_IMAGE = 300


class _NumPyWithFloat(types.ModuleType):
    """NumPy as ``lvis.eval`` knew it."""

    float = float

    def __getattr__(self, name):
        return getattr(np, name)


if not hasattr(np, "float"):
    lvis.eval.np = _NumPyWithFloat("numpy")


class LVIS(OFFICIAL_LVIS):
    """
    An annotation file, which may be one without ``annotations``, as test-dev's: nothing to evaluate.

    Raises:
        InputError: if ``ignore`` of an annotation is neither 0 nor 1.
    """

    def _load_json(self, path):
        with open(path, encoding="utf-8-sig") as file:  # with a byte order mark or without, whatever the locale
            content = json.load(file)
        if isinstance(content, dict):
            content.setdefault("annotations", [])
            _check_flags(path, content["annotations"])
        return content


def _check_flags(path: str, annotations) -> None:
    """The API takes any value that isn't empty or 0 for "ignore this"."""
    for annotation in annotations if isinstance(annotations, list) else ():
        if isinstance(annotation, dict) and "ignore" in annotation:
            try:
                annotation["ignore"] = int(read_flag(annotation, "ignore"))
            except ValueError as error:
                raise InputError(
                    f"Annotations {path} can't be used: annotation {annotation.get('id')!r:.60}: {error}; write 0 or 1."
                ) from error


class _NoResults(LVISResults):
    """What the API can't express: a model that detects nothing."""

    def __init__(self, lvis_gt: LVIS):
        self.logger = lvis_gt.logger
        self.dataset = {**lvis_gt.dataset, "annotations": []}
        self._create_index()


def evaluate_on_lvis(
    lvis_gt: LVIS, results: list[dict], iou_type: str, max_dets: int = MAX_DETECTIONS_PER_IMAGE
) -> tuple[dict[str, float], dict[int, float]]:
    """
    Evaluate detections with the official LVIS API.

    Args:
        lvis_gt: ground truth. For "segm" the API turns its polygons into RLEs in place.
        results: one dict per detection: image_id, category_id (the data set's own), score, and bbox [x, y, w, h] or
            segmentation (RLE). Not changed.
        iou_type: "bbox" or "segm".
        max_dets: the highest-scored detections kept per image, over all categories.

    Returns:
        metrics: the 13 of :data:`METRICS` in percent; NaN where no ground truth falls.
        per_category: AP in percent by category id, NaN for a category without ground truth.

    Raises:
        InputError: for another ``iou_type`` or results on images that the ground truth doesn't have.
    """
    check_iou_type(iou_type)
    unknown = {r["image_id"] for r in results} - set(lvis_gt.imgs)
    if unknown:
        raise unknown_images(unknown)
    # The API takes w*h of a "bbox" entry for the area even of masks, which changes APs, APm and APl.
    wanted = ("image_id", "category_id", "score", "bbox" if iou_type == "bbox" else "segmentation")
    results = [{key: result[key] for key in wanted} for result in results]
    lvis_dt = LVISResults(lvis_gt, results, max_dets=max_dets) if results else _NoResults(lvis_gt)
    evaluation = LVISEval(lvis_gt, lvis_dt, iou_type)
    evaluation.run()
    return summarise(evaluation)


def check_iou_type(iou_type: str) -> None:
    """
    Raises:
        InputError: for anything but "bbox" and "segm".
    """
    if iou_type not in IOU_TYPES:
        raise InputError(f"iou_type is {iou_type!r}; valid: {', '.join(map(repr, IOU_TYPES))}.")


def unknown_images(image_ids: set[int]) -> InputError:
    """The error for results on images that the ground truth doesn't have."""
    return InputError(
        f"results name {len(image_ids)} image(s) that the annotation file doesn't have, e.g. image_id "
        f"{min(image_ids)}; evaluate them with the annotations of the same split."
    )


def summarise(evaluation: LVISEval) -> tuple[dict[str, float], dict[int, float]]:
    """As :func:`evaluate_on_lvis` returns it, of an evaluation that has run."""
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
    """The API's -1 stands for "nothing to measure"."""
    return float(value) * 100 if value > -1 else math.nan
