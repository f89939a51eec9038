"""
Two backends that compute the LVIS metrics with identical results.

"official" is the LVIS API (``lvis`` 0.5.3), the reference. "fast" selects the detections that count with NumPy, matches
them with ``hotcoco``, and computes the averages with the LVIS API. ``hotcoco`` never gets inputs on which it could
differ: objects and detections without area, which ``lvis`` drops and ``hotcoco`` keeps, are dropped first; annotation
files with unusual content are evaluated by the LVIS API.
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

from ..data.annotations.annotation_reader import FEDERATED_LISTS
from ..data.rle import rle_of
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
# Detections matched at a time, while as many are read. With masks, each takes about 2.5 KB.
PART = 25_000


def check_backend(name: str) -> None:
    """
    Check the name of a backend.

    Raises:
        InputError: if the backend is unknown or not installed.
    """
    if name not in BACKENDS:
        raise InputError(f"TEST.LVIS_BACKEND is {name!r}; valid: {', '.join(map(repr, BACKENDS))}.")
    if name == "fast" and hotcoco is None:
        raise InputError(
            "TEST.LVIS_BACKEND is 'fast', but hotcoco is not installed: pip install hotcoco==1.3.0, or set it to "
            "'official', which gives the same metrics and is many times slower."
        )


def evaluate_detections(
    lvis_gt: LVIS,
    detections: Detections,
    iou_type: str,
    backend: str = "fast",
    max_dets: int = MAX_DETECTIONS_PER_IMAGE,
) -> tuple[dict[str, float], dict[int, float]]:
    """
    Compute the LVIS metrics of stored detections.

    Args:
        lvis_gt: ground truth. The official backend converts its polygons to RLE in place for "segm".
        detections: detections on any number of its images.
        iou_type: "bbox" or "segm".
        backend: "fast" or "official". The latter needs about 3 KB of memory per detection.
        max_dets: number of highest-scoring detections kept per image, over all categories; negative keeps all.

    Returns:
        metrics: the 13 metrics of :data:`balanced_lvis.evaluation.lvis_api.METRICS` in percent; NaN without ground
            truth.
        per_category: AP in percent by category id; NaN for a category without ground truth.

    Raises:
        InputError: for an unknown ``iou_type`` or ``backend``, or detections on images that are not in the ground
            truth.
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
    As :func:`evaluate_detections`, for several tasks. The detections that count are selected once.

    Args:
        iou_types: "bbox", "segm" or both.

    Yields:
        iou_type, metrics, per_category.
    """
    check_backend(backend)
    check_images(lvis_gt, detections)
    if backend == "fast":
        with no_garbage_collection():
            truth = GroundTruth(lvis_gt)
            oddity = truth.oddity() or oddity_of_detections(detections)
            counted = None if oddity else _Counted(truth, detections, max_dets)
        if counted is not None:
            for iou_type in iou_types:
                yield iou_type, *_evaluate_fast(truth, detections, counted, iou_type)
            return
        logger.warning("%s: evaluated with the official API, which is slow.", oddity)
    results = [record for batch in detections.records() for record in batch]
    for iou_type in iou_types:
        yield iou_type, *evaluate_on_lvis(lvis_gt, results, iou_type, max_dets)


def check_images(lvis_gt: LVIS, detections: Detections) -> None:
    """
    Raises:
        InputError: if there are detections on images that are not in the ground truth.
    """
    found = detections.images
    unknown = set(found["id"][found["detections"] > 0].tolist()) - set(lvis_gt.imgs)
    if unknown:
        raise unknown_images(unknown)


class GroundTruth:
    """
    The part of an annotation file that the LVIS API evaluates. Images and categories are numbered by rank of their ids.

    Attributes:
        annotations: G dicts, selected by the API.
        image_ids: (I,) sorted ids.
        category_ids: (K,) sorted ids.
        images: (G,) rank of the image of each annotation.
        categories: (G,) rank of the category of each annotation.
    """

    def __init__(self, lvis_gt: LVIS):
        self.lvis = lvis_gt
        self._masks: dict[int, dict] = {}
        self.image_ids = np.unique(np.fromiter(lvis_gt.imgs, np.int64))
        self.category_ids = np.unique(np.fromiter(lvis_gt.cats, np.int64))
        self._rank_of_category = {category_id: rank for rank, category_id in enumerate(self.category_ids.tolist())}
        selected = lvis_gt.get_ann_ids(img_ids=self.image_ids.tolist(), cat_ids=self.category_ids.tolist())
        self.annotations = lvis_gt.load_anns(selected)
        self.images = ranks(self.image_ids, [a["image_id"] for a in self.annotations])
        self.categories = ranks(self.category_ids, [a["category_id"] for a in self.annotations])

    def oddity(self) -> str | None:
        """Description of content that the fast backend does not support, or None."""
        ids = [a["id"] for a in self.annotations]
        if len(set(ids)) < len(ids) or not all(ids):
            return "Annotation ids that are 0 or occur twice"
        if any(a.get("ignore") for a in self.annotations):
            return "Ignored annotations"
        if self.annotations and not np.isfinite([[*a["bbox"], a["area"]] for a in self.annotations]).all():
            return "Annotations with boxes that are not finite"
        return None

    def judged(self) -> np.ndarray:
        """(I, K+1) bool: whether the presence of a category in an image is known. The last column is False."""
        judged = np.zeros((len(self.image_ids), len(self.category_ids) + 1), bool)
        judged[self.images, self.categories] = True
        for row, image_id in zip(judged, self.image_ids.tolist()):
            row[self._listed(image_id, "neg_category_ids")] = True
        return judged

    def not_exhaustive(self) -> np.ndarray:
        """(I, K+1) bool: whether some objects of a category in an image may have no annotation."""
        listed = np.zeros((len(self.image_ids), len(self.category_ids) + 1), bool)
        for row, image_id in zip(listed, self.image_ids.tolist()):
            row[self._listed(image_id, "not_exhaustive_category_ids")] = True
        return listed

    def mask(self, index: int) -> dict:
        """RLE of an annotation, as the API rasterises it; kept for the next call."""
        if index not in self._masks:
            annotation = self.annotations[index]
            image = self.lvis.imgs[annotation["image_id"]]
            self._masks[index] = rle_of(annotation["segmentation"], image["height"], image["width"])
        return self._masks[index]

    def to_hotcoco(self, with_masks: bool, first: int = 0, end: int | None = None):
        """A ``hotcoco.COCO`` with ranks as ids and with the annotations of categories ``first`` to ``end``."""
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
        """Images without sizes: boxes do not need them, and a file may not have them."""
        return [
            {"id": rank, "height": 0, "width": 0, **{key: self._listed(image_id, key) for key in FEDERATED_LISTS}}
            for rank, image_id in enumerate(self.image_ids.tolist())
        ]

    @cached_property
    def _sized_images(self) -> list[dict]:
        images = (self.lvis.imgs[image_id] for image_id in self.image_ids.tolist())
        return [
            {**made, "height": image["height"], "width": image["width"]} for made, image in zip(self._images, images)
        ]

    def _listed(self, image_id: int, key: str) -> list[int]:
        """Ranks of the known categories that an image lists under ``key``."""
        rank_of = self._rank_of_category
        return [rank_of[category_id] for category_id in self.lvis.imgs[image_id][key] if category_id in rank_of]

    def _segmentation(self, annotation: dict) -> list | dict:
        """Valid polygons unchanged, as hotcoco rasterises them identically and faster; otherwise the RLE of the API."""
        parts = annotation["segmentation"]
        if isinstance(parts, list) and parts and all(len(part) >= 6 and len(part) % 2 == 0 for part in parts):
            return parts
        return self.lvis.ann_to_rle(annotation)


def ranks(sorted_ids: np.ndarray, ids) -> np.ndarray:
    """Position of each id in ``sorted_ids``; ``len(sorted_ids)`` for unknown ids."""
    ids = np.asarray(ids, np.int64)
    if not len(sorted_ids):
        return np.zeros(len(ids), np.int64)
    found = np.searchsorted(sorted_ids, ids)
    known = sorted_ids[np.minimum(found, len(sorted_ids) - 1)] == ids
    return np.where(known, found, len(sorted_ids))


def oddity_of_detections(detections: Detections) -> str | None:
    """Description of detections that only the LVIS API evaluates, or None."""
    if not np.isfinite(detections.scores).all() or not np.isfinite(detections.boxes).all():
        return "Scores or boxes that are not finite"
    return None


def ranks_of_detections(truth: GroundTruth, detections: Detections) -> tuple[np.ndarray, np.ndarray]:
    """(N,) rank of the image and (N,) rank of the category of each detection in the ground truth."""
    found = detections.images
    images = np.repeat(ranks(truth.image_ids, found["id"]), found["detections"])
    return images, ranks(truth.category_ids, detections.category_ids_of_classes())[detections.classes]


class _Counted:
    """
    The detections that count: the best of each image, in categories whose presence in the image is known.

    Attributes:
        rows: (M,) rows of the stored detections, ascending.
        images: (M,) rank of the image of each.
        categories: (M,) rank of the category of each.
    """

    def __init__(self, truth: GroundTruth, detections: Detections, max_dets: int):
        images, categories = ranks_of_detections(truth, detections)
        kept = truth.judged()[images, categories] & highest_per_image(images, detections.scores, max_dets)
        self.rows = np.flatnonzero(kept)
        self.images, self.categories = images[self.rows], categories[self.rows]


@contextlib.contextmanager
def no_garbage_collection():
    """Disable garbage collection while millions of live dicts exist: it would take longer than the work itself."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@no_garbage_collection()
def _evaluate_fast(truth: GroundTruth, detections: Detections, counted: _Counted, iou_type: str):
    """Evaluate some categories at a time; after the limit per image, they are independent."""
    rows, images, categories = counted.rows, counted.images, counted.categories
    official = lvis.eval.Params(iou_type)
    shape = (len(official.iou_thrs), len(official.rec_thrs), len(truth.category_ids), len(official.area_rng))
    precision, recall = np.full(shape, -1.0), np.full((shape[0], *shape[2:]), -1.0)
    with ThreadPoolExecutor(1) as worker:  # hotcoco releases the GIL: the next part is read meanwhile
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
    return summarise(Summary(truth, official, precision, recall))


def _parts(categories: np.ndarray, num_categories: int) -> list[tuple[int, int]]:
    """Successive ranges of categories with about :data:`PART` detections each, or one category with more."""
    counts = np.bincount(categories, minlength=num_categories)
    part_of = (np.cumsum(counts) - counts) // PART
    bounds = [0, *(np.flatnonzero(np.diff(part_of)) + 1).tolist(), num_categories]
    return list(zip(bounds, bounds[1:]))


def mask_areas(rles: list[dict]) -> np.ndarray:
    """(N,) areas in pixels. pycocotools stores the length of a list in 8 bits, so longer lists raise with NumPy 2."""
    batches = [mask_util.area(rles[start : start + 255]) for start in range(0, len(rles), 255)]
    return np.concatenate([np.zeros(0), *batches])


def highest_per_image(images: np.ndarray, scores: np.ndarray, limit: int) -> np.ndarray:
    """
    Select at most ``limit`` detections per image: those with the highest scores, of equal scores the first.

    Args:
        images: (N,) index of the image of each detection.
        scores: (N,) scores.
        limit: maximum number per image; negative keeps all.

    Returns:
        (N,) bool, True for selected detections.
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
    Load detections into hotcoco.

    Args:
        ground_truth: a ``hotcoco.COCO``.
        table: (N, 7) image, x, y, w, h, score, category.
        rles: N RLE masks, or None for boxes.

    Returns:
        ground truth and detections.
    """
    areas = table[:, 3] * table[:, 4] if rles is None else mask_areas(rles)
    counted = (areas > 0) & (areas < np.inf)  # as in the LVIS API, which drops all others
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
    Precision and recall by IoU threshold, (recall threshold,) category and area range, as in ``LVISEval``.

    Args:
        ground_truth, found: from :func:`_load`.
        number: number of detections, or an upper bound.
        official: thresholds and area ranges.
        first, end: range of categories.
    """
    evaluation = hotcoco.LVISEval(ground_truth, found.cap_detections_per_image(None), official.iou_type)
    evaluation.params.cat_ids = list(range(first, end))
    evaluation.params.iou_thrs = official.iou_thrs.tolist()
    evaluation.params.rec_thrs = official.rec_thrs.tolist()
    evaluation.params.area_rng = official.area_rng
    evaluation.params.max_dets = [max(number, 1)]  # the limit is applied already
    evaluation.evaluate()
    evaluation.accumulate()
    content: Any = evaluation.eval
    return np.asarray(content["precision"])[..., 0], np.asarray(content["recall"])[..., 0]


def _take(matched: tuple[int, int, Future], precision: np.ndarray, recall: np.ndarray) -> None:
    first, end, result = matched
    precision[:, :, first:end], recall[:, first:end] = result.result()


class Summary(LVISEval):
    """The averages of the LVIS API, from precision and recall that are computed elsewhere."""

    def __init__(self, truth: GroundTruth, params: lvis.eval.Params, precision: np.ndarray, recall: np.ndarray):
        self.lvis_gt = truth.lvis
        self.params = params
        self.params.img_ids = truth.image_ids.tolist()
        self.params.cat_ids = truth.category_ids.tolist()
        self.results: dict[str, float] = OrderedDict()
        self.freq_groups = self._prepare_freq_group()
        self.eval = {"params": self.params, "precision": precision, "recall": recall}
        self.summarize()
