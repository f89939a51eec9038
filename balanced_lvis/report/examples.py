"""
Which images, objects and detections the report shows, in the order of their importance.

The size of the page is limited. Views are therefore drawn in this order until they exceed it: categories that changed
most between runs, the worst and best images, then one view of each category after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest

import numpy as np

from .outcomes import RunOutcomes

IMAGES_PER_LIST = 8  # of the worst and of the best images of a run
OBJECTS_PER_CATEGORY, FALSE_PER_RUN = 8, 3
CHANGED_CATEGORIES, CHANGED_OBJECTS = 8, 4  # of those with the highest gain, and of those with the highest loss


@dataclass(frozen=True)
class ImageView:
    """A whole image."""

    image: int


@dataclass(frozen=True)
class ObjectView:
    """The surroundings of an annotated object, by its index."""

    object: int


@dataclass(frozen=True)
class FalseView:
    """The surroundings of a false positive: number of the run, and index in its :class:`RunOutcomes`."""

    run: int
    detection: int


Request = ImageView | ObjectView | FalseView


@dataclass(frozen=True)
class Change:
    """
    Categories whose AP differs most from that of the first run.

    Attributes:
        run: number of the other run.
        better, worse: ranks of categories, those that changed most first.
    """

    run: int
    better: list[int]
    worse: list[int]


@dataclass(frozen=True)
class CategoryExamples:
    """
    Attributes:
        objects: objects to show; those that only some runs find first.
        false: false positives to show, of all runs, by falling score.
    """

    objects: list[ObjectView]
    false: list[FalseView]

    def in_order(self) -> list[Request]:
        """Objects and false positives in turn."""
        pairs = zip_longest(self.objects, self.false)
        return [request for request in chain.from_iterable(pairs) if request is not None]


def changes(ap: Sequence[np.ndarray]) -> list[Change]:
    """
    Args:
        ap: (K,) AP of each category, for each run; NaN without objects.

    Returns:
        for each run but the first.
    """
    found = []
    for run, own in enumerate(ap[1:], 1):
        difference = own - ap[0]
        known = np.flatnonzero(~np.isnan(difference))
        order = known[np.argsort(-difference[known], kind="stable")].tolist()
        found.append(
            Change(
                run,
                [k for k in order[:CHANGED_CATEGORIES] if difference[k] > 0],
                [k for k in order[::-1][:CHANGED_CATEGORIES] if difference[k] < 0],
            )
        )
    return found


def worst_and_best_images(outcomes: RunOutcomes, exists: np.ndarray) -> tuple[list[int], list[int]]:
    """
    The images with the lowest F1, of equal ones those with the most errors; and with the highest, of equal ones those
    with the most objects. An image is in one list only.

    Args:
        outcomes: of a run.
        exists: (I,) bool, images that can be shown.
    """
    counts = outcomes.image_counts(len(exists))
    f1 = counts.f1()
    known = np.flatnonzero(exists & ~np.isnan(f1))
    number = min(IMAGES_PER_LIST, (len(known) + 1) // 2)
    worst = known[np.lexsort((-(counts.false + counts.missed)[known], f1[known]))][:number]
    rest = np.setdiff1d(known, worst)
    best = rest[np.lexsort((-counts.true[rest], -f1[rest]))][:number]
    return worst.tolist(), best.tolist()


def category_examples(outcomes: Sequence[RunOutcomes], exists: np.ndarray, number: int) -> list[CategoryExamples]:
    """
    Args:
        outcomes: of each run.
        exists: (I,) bool, images that can be shown.
        number: number of categories.
    """
    first = outcomes[0]
    found = np.stack([own.found() for own in outcomes])
    some, all_ = found.any(axis=0), found.all(axis=0)
    kind = np.where(some & ~all_, 0, np.where(all_, 2, 1))  # found by some, by none, by all
    order = np.lexsort((-first.object_areas, first.object_categories))
    order = order[exists[first.object_images[order]]]
    bounds = np.searchsorted(first.object_categories[order], np.arange(number + 1))
    false = [_false_positives(own, exists, number) for own in outcomes]
    result = []
    for k in range(number):
        members = order[bounds[k] : bounds[k + 1]]
        candidates = [FalseView(run, index) for run, own in enumerate(false) for index in own[k]]
        candidates.sort(key=lambda view: -outcomes[view.run].scores[view.detection])
        result.append(CategoryExamples(_mixed(members, kind[members]), candidates))
    return result


def _mixed(objects: np.ndarray, kind: np.ndarray) -> list[ObjectView]:
    """Objects of each kind in turn."""
    groups = [objects[kind == value].tolist() for value in range(3)]
    mixed = [index for index in chain.from_iterable(zip_longest(*groups)) if index is not None]
    return [ObjectView(index) for index in mixed[:OBJECTS_PER_CATEGORY]]


def _false_positives(outcomes: RunOutcomes, exists: np.ndarray, number: int) -> list[list[int]]:
    """The false positives with the highest scores, by category."""
    false = np.flatnonzero(~outcomes.true & exists[outcomes.images])
    bounds = np.searchsorted(outcomes.categories[false], np.arange(number + 1))
    return [false[begin:end][:FALSE_PER_RUN].tolist() for begin, end in zip(bounds, bounds[1:])]


def changed_objects(change: Change, outcomes: Sequence[RunOutcomes], exists: np.ndarray) -> dict[int, list[ObjectView]]:
    """
    Objects that explain changes: found by the better run only, those with the highest scores first.

    Args:
        change: categories that changed.
        outcomes: of each run.
        exists: (I,) bool, images that can be shown.

    Returns:
        by rank of the category.
    """
    shown: dict[int, list[ObjectView]] = {}
    pairs = ((change.better, change.run, 0), (change.worse, 0, change.run))
    for categories, finder, other in pairs:
        own = outcomes[finder]
        only = own.found() & ~outcomes[other].found() & exists[own.object_images]
        matches = own.matches()
        for k in categories:
            objects = np.flatnonzero(only & (own.object_categories == k))
            objects = objects[np.argsort(-own.scores[matches[objects]], kind="stable")]
            shown[k] = [ObjectView(index) for index in objects[:CHANGED_OBJECTS].tolist()]
    return shown


def in_rounds(examples: Sequence[CategoryExamples], image_of: Callable[[Request], int]) -> Iterator[Request]:
    """
    The first example of each category, then the second, and so on.

    Args:
        examples: of each category.
        image_of: number of the image of a request. In a round, requests of one image follow each other, so that it is
            read once.
    """
    for requests in zip_longest(*(own.in_order() for own in examples)):
        yield from sorted((request for request in requests if request is not None), key=image_of)
