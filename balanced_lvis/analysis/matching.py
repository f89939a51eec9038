"""
One table of matches, from which all numbers of an analysis are computed.

The LVIS API assigns detections to objects in the order of their scores, for each image and category. A detection
therefore never changes the match of one with a higher score, and one matching serves every limit on the number of
detections that keeps the highest scores: 300 per image, or 10,000 per category.

Shape shorthand: M detections, G objects, P pairs of them, T IoU thresholds, A area ranges, K categories.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property

import lvis.eval
import numpy as np

from ..evaluation.backends import GroundTruth, highest_per_image, no_garbage_collection, ranks_of_detections
from ..evaluation.detection_store import Detections
from ..evaluation.lvis_api import MAX_DETECTIONS_PER_IMAGE
from .pairs import Pairs, areas_and_pairs

# What a detection counts as.
FALSE, TRUE, IGNORED = 0, 1, 2
DETECTIONS_PER_CATEGORY = 10_000
ALL_AREAS = 0
OFFICIAL = lvis.eval.Params("bbox")
THRESHOLDS: np.ndarray = OFFICIAL.iou_thrs
AREA_RANGES = np.array(OFFICIAL.area_rng, np.float64)
AREA_NAMES: tuple[str, ...] = tuple(OFFICIAL.area_rng_lbl)


@dataclass(frozen=True)
class Objects:
    """
    The annotated objects.

    Attributes:
        ids: (G,) annotation ids.
        images, categories: (G,) ranks.
        areas: (G,) areas in pixels, of the annotation file.
    """

    ids: np.ndarray
    images: np.ndarray
    categories: np.ndarray
    areas: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def outside(self) -> np.ndarray:
        """(A, G) bool: whether an object is outside an area range, and ignored in it."""
        return outside_ranges(self.areas)

    def per_category(self, number: int) -> np.ndarray:
        """(K,) number of objects of each category, of any size."""
        inside = ~self.outside[ALL_AREAS]
        return np.bincount(self.categories[inside], minlength=number)


@dataclass(frozen=True)
class MatchTable:
    """
    The detections that count, and the objects that they are matched with.

    Detections are in the order of the evaluation: by category, then by falling score, then by image and row.

    Attributes:
        truth: ground truth.
        objects: its objects.
        rows: (M,) rows of the stored detections.
        images, categories: (M,) ranks of image and category.
        scores, areas: (M,) scores, and areas in pixels.
        standard: (M,) bool, whether a detection is among the 300 best of its image.
        fixed: (M,) bool, whether it is among the 10,000 best of its category.
        not_exhaustive: (M,) bool, whether objects of its category in its image may have no annotation.
        pairs: detections and objects of the same image, of any categories, with an IoU of at least 0.1.
        matched: (T, M) index of the pair that was matched, regardless of area; -1 without a match.
        status: (T, A, M) :data:`FALSE`, :data:`TRUE` or :data:`IGNORED`.
    """

    truth: GroundTruth
    objects: Objects
    rows: np.ndarray
    images: np.ndarray
    categories: np.ndarray
    scores: np.ndarray
    areas: np.ndarray
    standard: np.ndarray
    fixed: np.ndarray
    not_exhaustive: np.ndarray
    pairs: Pairs
    matched: np.ndarray
    status: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def num_categories(self) -> int:
        """K."""
        return len(self.truth.category_ids)

    @cached_property
    def bounds(self) -> np.ndarray:
        """(K+1,) the detections of category k are ``bounds[k]`` to ``bounds[k + 1]``."""
        return np.searchsorted(self.categories, np.arange(self.num_categories + 1))

    @cached_property
    def same_category(self) -> np.ndarray:
        """(P,) bool: whether detection and object of a pair are of the same category."""
        return self.categories[self.pairs.detections] == self.objects.categories[self.pairs.objects]

    def matched_objects(self, threshold: int) -> np.ndarray:
        """(M,) index of the object matched at an IoU threshold, by its index; -1 without a match."""
        return _where_matched(self.pairs.objects, self.matched[threshold], -1)

    def matched_ious(self, threshold: int) -> np.ndarray:
        """(M,) IoU with the object matched at an IoU threshold, by its index; 0 without a match."""
        return _where_matched(self.pairs.ious, self.matched[threshold], 0.0)

    def select(self, kept: np.ndarray) -> MatchTable:
        """
        The table of some detections.

        Args:
            kept: (M,) bool; of each image and category, those with the highest scores, or the matches would change.
        """
        if kept.all():
            return self
        index = np.cumsum(kept) - 1
        kept_pairs = kept[self.pairs.detections]
        pair_index = np.append(np.cumsum(kept_pairs) - 1, -1).astype(np.int32)  # the last is that of no pair, -1
        pairs = self.pairs[kept_pairs]
        columns = ("rows", "images", "categories", "scores", "areas", "standard", "fixed", "not_exhaustive")
        return dataclasses.replace(
            self,
            **{name: getattr(self, name)[kept] for name in columns},
            pairs=Pairs(index[pairs.detections], pairs.objects, pairs.ious),
            matched=pair_index[self.matched[:, kept]],
            status=self.status[:, :, kept],
        )

    def with_ious(self, pairs: Pairs) -> MatchTable:
        """The table with other IoUs, matched again. Pairs that are left out match at no threshold."""
        return _matched(dataclasses.replace(self, pairs=pairs))


def outside_ranges(areas: np.ndarray) -> np.ndarray:
    """(A, N) bool: whether areas are outside each range of the LVIS API. Both ends are inside."""
    return (areas < AREA_RANGES[:, :1]) | (areas > AREA_RANGES[:, 1:])


@no_garbage_collection()
def match_detections(truth: GroundTruth, detections: Detections, iou_type: str) -> MatchTable:
    """
    Match all detections of categories whose presence in the image is known.

    Args:
        truth: ground truth without :meth:`~balanced_lvis.evaluation.backends.GroundTruth.oddity`.
        detections: detections with finite scores and boxes, on its images.
        iou_type: "bbox" or "segm".
    """
    images, categories = ranks_of_detections(truth, detections)
    scores = detections.scores
    # The limits count detections before any are left out, as in the LVIS API and in the code of AP-fixed.
    standard = highest_per_image(images, scores, MAX_DETECTIONS_PER_IMAGE)
    fixed = highest_per_image(categories, scores, DETECTIONS_PER_CATEGORY)
    rows = np.flatnonzero(truth.judged()[images, categories] & (standard | fixed))
    rows = rows[np.lexsort((rows, images[rows], -scores[rows], categories[rows]))]
    images, categories = images[rows], categories[rows]
    areas, pairs = areas_and_pairs(truth, detections, rows, images, iou_type)
    shape = (len(THRESHOLDS), len(AREA_RANGES), len(rows))
    table = MatchTable(
        truth, _objects_of(truth), rows, images, categories, scores[rows], areas, standard[rows], fixed[rows],
        truth.not_exhaustive()[images, categories], pairs,
        np.full((shape[0], shape[2]), -1, np.int32), np.zeros(shape, np.uint8),
    )  # fmt: skip
    # The LVIS API drops detections without area.
    return _matched(table.select((areas > 0) & (areas < np.inf)))


def match_pairs(table: MatchTable, thresholds: np.ndarray, ignored: np.ndarray) -> np.ndarray:
    """
    Assign detections to objects of their category by the rules of the LVIS API.

    By falling score, each detection takes the free object with the highest IoU of at least the threshold; an ignored
    one only if there is no other. Of equal IoUs, the last object is taken.

    Args:
        table: detections, objects and pairs.
        thresholds: (T,) IoU thresholds.
        ignored: (A, G) bool, objects that are ignored in each area range.

    Returns:
        (T, A, M) index of the pair of each detection, -1 without a match.
    """
    thresholds = np.minimum(thresholds, 1 - 1e-10)[:, None, None]
    candidates = np.flatnonzero(table.same_category & (table.pairs.ious >= thresholds.min()))
    pairs = table.pairs[candidates]
    order = np.lexsort((pairs.objects, pairs.ious, pairs.detections))  # a detection's best pair is its last
    candidates, pairs = candidates[order], pairs[order]
    result = np.full((len(thresholds), len(ignored), len(table)), -1, np.int32)
    taken = np.zeros((len(thresholds), len(ignored), len(table.objects)), bool)
    for chosen, starts, place in _rounds(pairs.detections, table):
        objects = pairs.objects[chosen]
        free = ~taken[:, :, objects] & (pairs.ious[chosen] >= thresholds)
        preference = place + (place.max() + 1) * ~ignored[:, objects]
        best = np.maximum.reduceat(np.where(free, preference, -1), starts, axis=2)
        which = starts + best % (place.max() + 1)
        threshold, area, detection = np.nonzero(best >= 0)
        taken_pair = chosen[which[threshold, area, detection]]
        taken[threshold, area, pairs.objects[taken_pair]] = True
        result[threshold, area, pairs.detections[taken_pair]] = candidates[taken_pair]
    return result


def _rounds(detections: np.ndarray, table: MatchTable):
    """
    Group pairs by the rank of their detection among those of its image and category. Pairs of one rank share no object.

    Args:
        detections: (p,) ascending detection of each pair.

    Yields:
        for each rank: indices of its pairs, the first of each detection among them, and (as int32) the place of each
        pair among those of its detection.
    """
    if not len(detections):
        return
    distinct, first, counts = np.unique(detections, return_index=True, return_counts=True)
    cells = table.images[distinct] * table.num_categories + table.categories[distinct]
    rank = _rank_in_group(cells)
    by_rank = np.argsort(rank, kind="stable")
    bounds = np.searchsorted(rank[by_rank], np.arange(rank.max() + 2))
    for begin, end in zip(bounds, bounds[1:]):
        own = by_rank[begin:end]
        starts = np.cumsum(counts[own]) - counts[own]
        place = np.arange(counts[own].sum()) - np.repeat(starts, counts[own])
        yield np.repeat(first[own], counts[own]) + place, starts, place.astype(np.int32)


def _rank_in_group(groups: np.ndarray) -> np.ndarray:
    """(N,) how many earlier elements have the same value."""
    order = np.argsort(groups, kind="stable")
    sorted_groups = groups[order]
    starts = np.flatnonzero(np.diff(sorted_groups, prepend=sorted_groups[0] - 1))
    rank = np.empty(len(groups), np.int64)
    rank[order] = np.arange(len(groups)) - np.repeat(starts, np.diff(starts, append=len(groups)))
    return rank


def statuses(table: MatchTable, matched: np.ndarray) -> np.ndarray:
    """
    What each detection counts as.

    Args:
        matched: (T, a, M) from :func:`match_pairs`, for the first a area ranges.

    Returns:
        (T, a, M) :data:`FALSE`, :data:`TRUE` or :data:`IGNORED`.
    """
    ignored = outside_ranges(table.areas)[: matched.shape[1]] | table.not_exhaustive
    status = np.where(ignored, IGNORED, FALSE).astype(np.uint8)[None].repeat(len(matched), axis=0)
    threshold, area, detection = np.nonzero(matched >= 0)
    objects = table.pairs.objects[matched[threshold, area, detection]]
    status[threshold, area, detection] = np.where(table.objects.outside[area, objects], IGNORED, TRUE)
    return status


def _matched(table: MatchTable) -> MatchTable:
    matched = match_pairs(table, THRESHOLDS, table.objects.outside)
    return dataclasses.replace(table, matched=matched[:, ALL_AREAS], status=statuses(table, matched))


def _where_matched(values: np.ndarray, pairs: np.ndarray, otherwise) -> np.ndarray:
    found = np.full(len(pairs), otherwise, values.dtype)
    found[pairs >= 0] = values[pairs[pairs >= 0]]
    return found


def _objects_of(truth: GroundTruth) -> Objects:
    annotations = truth.annotations
    return Objects(
        np.array([a["id"] for a in annotations], np.int64),
        truth.images,
        truth.categories,
        np.array([a["area"] for a in annotations], np.float64),
    )
