"""
Two ways to the LVIS numbers, equal to the last digit: the official API, and a fast one.

"official" is ``lvis`` 0.5.3, the referee. "fast" decides with NumPy which detections count, by the official rules,
leaves matching to ``hotcoco`` and the averages to the official API again. hotcoco is fed nothing on which it was ever
found to differ: it keeps objects and detections without area, which ``lvis`` drops, so they are dropped before; and
annotation files on whose oddities the two could differ are given to the official API.
"""

from __future__ import annotations

import contextlib
import gc
import logging
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import Any

import lvis.eval
import numpy as np
from pycocotools import mask as mask_util

from ..utils.errors import InputError
from .detection_store import Detections
from .lvis_api import (
    LVIS,
    MAX_DETECTIONS_PER_IMAGE,
    LVISEval,
    check_iou_type,
    evaluate_on_lvis,
    summarise,
    unknown_images,
)

try:
    import hotcoco
except ImportError:
    hotcoco = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

BACKENDS = ("fast", "official")
# Detections that are matched at a time, while as many are read: with masks, each takes about 2.5 KB meanwhile.
PART = 25_000


def check_backend(name: str) -> None:
    """
    Raises:
        InputError: for an unknown back end, or a fast one that is not installed.
    """
    if name not in BACKENDS:
        raise InputError(f"TEST.LVIS_BACKEND is {name!r}; valid: {', '.join(map(repr, BACKENDS))}.")
    if name == "fast" and hotcoco is None:
        raise InputError(
            "TEST.LVIS_BACKEND is 'fast', which needs hotcoco: pip install hotcoco==1.3.0 (Python 3.10 or newer), or "
            "set it to 'official': the same numbers, many times slower."
        )


def evaluate_detections(
    lvis_gt: LVIS,
    detections: Detections,
    iou_type: str,
    backend: str = "fast",
    max_dets: int = MAX_DETECTIONS_PER_IMAGE,
) -> tuple[dict[str, float], dict[int, float]]:
    """
    The LVIS numbers of stored detections.

    Args:
        lvis_gt: ground truth. The official back end turns its polygons into RLEs in place for "segm".
        detections: of any number of its images.
        iou_type: "bbox" or "segm".
        backend: "fast" or "official", which needs about 3 KB of memory per detection.
        max_dets: the highest-scored detections kept per image, over all categories; negative keeps all.

    Returns:
        metrics: the 13 of :data:`balanced_lvis.evaluation.lvis_api.METRICS` in percent; NaN where no ground truth
            falls.
        per_category: AP in percent by category id, NaN for a category without ground truth.

    Raises:
        InputError: for another ``iou_type`` or ``backend``, or detections on images that the ground truth doesn't have.
    """
    check_iou_type(iou_type)
    ((_, metrics, per_category),) = evaluate_tasks(lvis_gt, detections, (iou_type,), backend, max_dets)
    return metrics, per_category


def evaluate_tasks(
    lvis_gt: LVIS,
    detections: Detections,
    iou_types: Sequence[str],
    backend: str = "fast",
    max_dets: int = MAX_DETECTIONS_PER_IMAGE,
) -> Iterator[tuple[str, dict[str, float], dict[int, float]]]:
    """
    As :func:`evaluate_detections`, of several tasks: which detections count is found once.

    Args:
        iou_types: of "bbox" and "segm".

    Yields:
        iou_type, metrics, per_category.
    """
    check_backend(backend)
    _check_images(lvis_gt, detections)
    if backend == "fast":
        with _no_garbage_collection():
            truth = _GroundTruth(lvis_gt)
            oddity = truth.oddity() or _oddity_of_detections(detections)
            counted = None if oddity else _Counted(truth, detections, max_dets)
        if counted is not None:
            for iou_type in iou_types:
                yield iou_type, *_evaluate_fast(truth, detections, counted, iou_type)
            return
        logger.warning("%s: evaluated with the official API, which is slow.", oddity)
    results = [record for batch in detections.records() for record in batch]
    for iou_type in iou_types:
        yield iou_type, *evaluate_on_lvis(lvis_gt, results, iou_type, max_dets)


def _check_images(lvis_gt: LVIS, detections: Detections) -> None:
    found = detections.images
    unknown = set(found["id"][found["detections"] > 0].tolist()) - set(lvis_gt.imgs)
    if unknown:
        raise unknown_images(unknown)


class _GroundTruth:
    """
    What of an annotation file the official API evaluates, with images and categories by their rank among the sorted
    ids.

    Attributes:
        annotations: G dicts, those of the API's own selection.
        image_ids: (I,) sorted.
        category_ids: (K,) sorted.
        images: (G,) rank of every annotation's image.
        categories: (G,) rank of every annotation's category.
    """

    def __init__(self, lvis_gt: LVIS):
        self.lvis = lvis_gt
        self.image_ids = np.unique(np.fromiter(lvis_gt.imgs, np.int64))
        self.category_ids = np.unique(np.fromiter(lvis_gt.cats, np.int64))
        self._rank_of_category = {category_id: rank for rank, category_id in enumerate(self.category_ids.tolist())}
        selected = lvis_gt.get_ann_ids(img_ids=self.image_ids.tolist(), cat_ids=self.category_ids.tolist())
        self.annotations = lvis_gt.load_anns(selected)
        self.images = _ranks(self.image_ids, [a["image_id"] for a in self.annotations])
        self.categories = _ranks(self.category_ids, [a["category_id"] for a in self.annotations])

    def oddity(self) -> str | None:
        """What of this file the fast back end isn't trusted with, in words."""
        ids = [a["id"] for a in self.annotations]
        if len(set(ids)) < len(ids) or not all(ids):
            return "Annotation ids that are 0 or occur twice"
        if any(a.get("ignore") for a in self.annotations):
            return "Annotations to be ignored"
        if self.annotations and not np.isfinite([[*a["bbox"], a["area"]] for a in self.annotations]).all():
            return "Annotations with boxes that are not finite"
        return None

    def judged(self) -> np.ndarray:
        """(I, K+1) bool: whether it is known if a category is in an image. The last column is unknown categories'."""
        judged = np.zeros((len(self.image_ids), len(self.category_ids) + 1), bool)
        judged[self.images, self.categories] = True
        for row, image_id in zip(judged, self.image_ids.tolist()):
            row[self._listed(image_id, "neg_category_ids")] = True
        return judged

    def to_hotcoco(self, with_masks: bool, first: int = 0, end: int | None = None):
        """A ``hotcoco.COCO`` with the ranks for ids, and with the annotations of categories ``first`` to ``end``."""
        end = len(self.category_ids) if end is None else end
        part = np.flatnonzero((self.categories >= first) & (self.categories < end))
        annotations = [self.annotations[index] for index in part.tolist()]
        return hotcoco.COCO.from_arrays(
            self._sized_images if with_masks else self._images,
            [{"id": rank, "name": str(rank)} for rank in range(len(self.category_ids))],
            self.images[part],
            self.categories[part],
            np.array([a["bbox"] for a in annotations], np.float64).reshape(-1, 4),
            ids=np.arange(1, len(annotations) + 1),
            area=np.array([a["area"] for a in annotations], np.float64),
            segmentation=[self._segmentation(a) for a in annotations] if with_masks else None,
        )

    @cached_property
    def _images(self) -> list[dict]:
        """Without sizes, which boxes don't need and a file may lack."""
        lists = ("neg_category_ids", "not_exhaustive_category_ids")
        return [
            {"id": rank, "height": 0, "width": 0, **{key: self._listed(image_id, key) for key in lists}}
            for rank, image_id in enumerate(self.image_ids.tolist())
        ]

    @cached_property
    def _sized_images(self) -> list[dict]:
        images = (self.lvis.imgs[image_id] for image_id in self.image_ids.tolist())
        return [
            {**made, "height": image["height"], "width": image["width"]} for made, image in zip(self._images, images)
        ]

    def _listed(self, image_id: int, key: str) -> list[int]:
        """Ranks of the categories that an image lists, of those that the file has."""
        rank_of = self._rank_of_category
        return [rank_of[category_id] for category_id in self.lvis.imgs[image_id][key] if category_id in rank_of]

    def _segmentation(self, annotation: dict) -> list | dict:
        """Ordinary polygons as they are, which hotcoco rasterises alike and faster; of all else, the API's own RLE."""
        parts = annotation["segmentation"]
        if isinstance(parts, list) and parts and all(len(part) >= 6 and len(part) % 2 == 0 for part in parts):
            return parts
        return self.lvis.ann_to_rle(annotation)


def _ranks(sorted_ids: np.ndarray, ids) -> np.ndarray:
    """Position of every id among the sorted ones, and their number for what is not among them."""
    ids = np.asarray(ids, np.int64)
    if not len(sorted_ids):
        return np.zeros(len(ids), np.int64)
    found = np.searchsorted(sorted_ids, ids)
    known = sorted_ids[np.minimum(found, len(sorted_ids) - 1)] == ids
    return np.where(known, found, len(sorted_ids))


def _oddity_of_detections(detections: Detections) -> str | None:
    if not np.isfinite(detections.scores).all() or not np.isfinite(detections.boxes).all():
        return "Scores or boxes that are not finite"
    return None


class _Counted:
    """
    The detections that count, whatever the task: the best of each image, of categories known to be there or not.

    Attributes:
        rows: (M,) of the store, ascending.
        images: (M,) rank of every one's image.
        categories: (M,) rank of every one's category.
    """

    def __init__(self, truth: _GroundTruth, detections: Detections, max_dets: int):
        found = detections.images
        images = np.repeat(_ranks(truth.image_ids, found["id"]), found["detections"])
        categories = _ranks(truth.category_ids, detections.category_ids_of_classes())[detections.classes]
        kept = truth.judged()[images, categories] & highest_per_image(images, detections.scores, max_dets)
        self.rows = np.flatnonzero(kept)
        self.images, self.categories = images[self.rows], categories[self.rows]


@contextlib.contextmanager
def _no_garbage_collection():
    """Of many dicts, none of which is garbage: looking for it takes longer than all that is done with them."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@_no_garbage_collection()
def _evaluate_fast(truth: _GroundTruth, detections: Detections, counted: _Counted, iou_type: str):
    """Some categories at a time, which know nothing of each other after the limit per image."""
    rows, images, categories = counted.rows, counted.images, counted.categories
    official = lvis.eval.Params(iou_type)
    shape = (len(official.iou_thrs), len(official.rec_thrs), len(truth.category_ids), len(official.area_rng))
    precision, recall = np.full(shape, -1.0), np.full((shape[0], *shape[2:]), -1.0)
    with ThreadPoolExecutor(1) as worker:  # hotcoco computes without Python's lock: meanwhile the next part is read
        running = []
        for first, end in _parts(categories, len(truth.category_ids)):
            part = np.flatnonzero((categories >= first) & (categories < end))
            table = np.column_stack(
                [images[part], detections.boxes[rows[part]], detections.scores[rows[part]], categories[part]]
            )
            rles = list(detections.rles(rows[part])) if iou_type == "segm" else None
            truth_part, found = _load(truth.to_hotcoco(iou_type == "segm", first, end), table, rles)
            running.append((first, end, worker.submit(_match, truth_part, found, len(part), official, first, end)))
            if len(running) > 1:
                _take(running.pop(0), precision, recall)
        for one in running:
            _take(one, precision, recall)
    return summarise(_Summary(truth, official, precision, recall))


def _parts(categories: np.ndarray, num_categories: int) -> list[tuple[int, int]]:
    """Successive ranges of categories with about :data:`PART` detections each, or one category's if they are more."""
    counts = np.bincount(categories, minlength=num_categories)
    part_of = (np.cumsum(counts) - counts) // PART
    bounds = [0, *(np.flatnonzero(np.diff(part_of)) + 1).tolist(), num_categories]
    return list(zip(bounds, bounds[1:]))


def _mask_areas(rles: list[dict]) -> np.ndarray:
    """(N,) in pixels. pycocotools stores a list's length in 8 bits, at which NumPy 2 raises."""
    batches = [mask_util.area(rles[start : start + 255]) for start in range(0, len(rles), 255)]
    return np.concatenate([np.zeros(0), *batches])


def highest_per_image(images: np.ndarray, scores: np.ndarray, limit: int) -> np.ndarray:
    """
    The detections that remain of at most ``limit`` per image: the highest-scored ones, of equal ones the first.

    Args:
        images: (N,) index of every detection's image, 0 or more.
        scores: (N,).
        limit: negative keeps all.

    Returns:
        (N,) bool.
    """
    counts = np.bincount(images) if len(images) else np.zeros(0, int)
    kept = np.ones(len(images), bool)
    if limit < 0 or not (counts > limit).any():
        return kept
    rows = np.flatnonzero(counts[images] > limit)
    rows = rows[np.lexsort((-scores[rows], images[rows]))]  # stable: equal scores stay in their order
    counts = np.where(counts > limit, counts, 0)
    starts = np.cumsum(counts) - counts
    rank = np.arange(len(rows)) - starts[images[rows]]
    kept[rows[rank >= limit]] = False
    return kept


def _load(ground_truth, table: np.ndarray, rles: list[dict] | None):
    """
    Ground truth and detections, as hotcoco matches them.

    Args:
        ground_truth: a ``hotcoco.COCO``.
        table: (N, 7) image, x, y, w, h, score, category.
        rles: N RLEs, or None for boxes.
    """
    areas = table[:, 3] * table[:, 4] if rles is None else _mask_areas(rles)
    counted = (areas > 0) & (areas < np.inf)  # the official API's condition, which drops the others
    if not counted.all():
        table, areas = table[counted], areas[counted]
        rles = None if rles is None else [rles[index] for index in np.flatnonzero(counted)]
    found = ground_truth.load_res(table, segmentation=rles) if rles else ground_truth.load_res(table)
    if len(table):
        found.update_anns(ids=np.arange(1, len(table) + 1), area=areas)
    return ground_truth, found


def _match(
    ground_truth, found, number: int, official: lvis.eval.Params, first: int, end: int
) -> tuple[np.ndarray, np.ndarray]:
    """
    Precision and recall by IoU threshold, (recall threshold,) category and area range, as ``LVISEval`` has them.

    Args:
        ground_truth, found: what :func:`_load` loaded.
        number: of detections, or more.
        official: thresholds and area ranges.
        first, end: the range of categories.
    """
    evaluation = hotcoco.LVISEval(ground_truth, found.cap_detections_per_image(None), official.iou_type)
    evaluation.params.cat_ids = list(range(first, end))
    evaluation.params.iou_thrs = official.iou_thrs.tolist()
    evaluation.params.rec_thrs = official.rec_thrs.tolist()
    evaluation.params.area_rng = official.area_rng
    evaluation.params.max_dets = [max(number, 1)]  # cut already
    evaluation.evaluate()
    evaluation.accumulate()
    content: Any = evaluation.eval
    return np.asarray(content["precision"])[..., 0], np.asarray(content["recall"])[..., 0]


def _take(matched: tuple[int, int, Future], precision: np.ndarray, recall: np.ndarray) -> None:
    first, end, result = matched
    precision[:, :, first:end], recall[:, first:end] = result.result()


class _Summary(LVISEval):
    """The official averages of precision and recall that something else has found."""

    def __init__(self, truth: _GroundTruth, params: lvis.eval.Params, precision: np.ndarray, recall: np.ndarray):
        self.lvis_gt = truth.lvis
        self.params = params
        self.params.img_ids = truth.image_ids.tolist()
        self.params.cat_ids = truth.category_ids.tolist()
        self.results: dict[str, float] = OrderedDict()
        self.freq_groups = self._prepare_freq_group()
        self.eval = {"params": self.params, "precision": precision, "recall": recall}
        self.summarize()
