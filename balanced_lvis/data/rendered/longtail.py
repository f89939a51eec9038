"""Number of images of each category with a long tail as in LVIS, and assignment of categories to images."""

from __future__ import annotations

import logging

import numpy as np

from ...priors import COMMON_MAX_IMAGES, RARE_MAX_IMAGES

logger = logging.getLogger(__name__)

_RARE_SHARE, _COMMON_SHARE = 337 / 1203, 461 / 1203  # LVIS-1.0's
_MAX_PRESENCE = 0.8  # the largest share of images with a category, so that it is absent from some
_LOWEST_CAP = 2 * COMMON_MAX_IMAGES  # of the most frequent category, before rare and common ones are reduced
_TOP_PRESENCE = 0.3  # share of images of the most frequent category after the reduction
_MAX_BEND = 60.0
_REPEATS = 0.12  # share of objects whose category occurs before in their image


def max_objects(objects_per_image: int) -> int:
    """The maximum number of annotated objects of an image."""
    return 2 * objects_per_image + 2


def train_counts(
    num_classes: int,
    num_images: int,
    objects_per_image: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """
    The number of training images of each category, in random order of categories.

    Rare, common and frequent categories have LVIS-1.0's proportions, with counts spread log-uniformly over 1-10, 11-100
    and 101 to a cap. The cap is chosen to fill the images. If even the lowest cap exceeds them, the logarithms of the
    counts are bent downwards: all except the highest shrink, none below 1, and the tail stays long. If there isn't
    enough space for one image of each category, some categories have none, and a warning is logged.

    Args:
        num_classes: number of categories.
        num_images: number of training images.
        objects_per_image: mean number of objects of an image; :func:`max_objects` is the most.
        rng: of the order of the categories.

    Returns:
        int64 array of shape (num_classes,).
    """
    budget = max(1, round(num_images * objects_per_image * (1 - _REPEATS)))
    highest = max(1, int(_MAX_PRESENCE * num_images))
    counts = _largest(lambda cap: _profile(num_classes, cap), _LOWEST_CAP, max(highest, _LOWEST_CAP), budget)
    if counts.sum() > budget or counts.max() > highest:
        counts = _shrunk(counts, highest, budget)
    space = num_images * max_objects(objects_per_image)
    if num_classes > space:
        logger.warning(
            f"{num_images} train images have at most {space} objects: "
            f"{num_classes - space} of {num_classes} categories have no train image"
        )
        counts[: num_classes - space] = 0
    if counts.max() <= COMMON_MAX_IMAGES:
        logger.info(f"With {num_images} train images, no category is frequent (above {COMMON_MAX_IMAGES} images)")
    return rng.permutation(counts)


def balanced_counts(
    num_classes: int,
    num_images: int,
    objects_per_image: int,
    rng: np.random.Generator,
    split: str,
) -> np.ndarray:
    """
    Balanced numbers of images of the categories, which differ by at most 1.

    Every category occurs at least once if there are enough images; otherwise, this is logged.

    Args:
        num_classes: number of categories.
        num_images: number of images of the split.
        objects_per_image: as of :func:`train_counts`.
        rng: chooses the categories with one image more.
        split: its name, for the message.

    Returns:
        int64 array of shape (num_classes,).
    """
    space = num_images * max_objects(objects_per_image)
    pairs = round(num_images * objects_per_image * (1 - _REPEATS))
    pairs = min(max(pairs, num_classes), space, num_classes * max(1, int(_MAX_PRESENCE * num_images)))
    if pairs < num_classes:
        limit = f"{num_images} {split} images have at most {space} objects"
        level = logging.WARNING if split == "val" else logging.INFO  # other splits are not used for metrics by category
        logger.log(level, f"{limit}: {num_classes - pairs} of {num_classes} categories have no {split} image")
    counts = np.full(num_classes, pairs // num_classes, np.int64)
    counts[: pairs % num_classes] += 1
    return rng.permutation(counts)


def assign(
    counts: np.ndarray,
    num_images: int,
    objects_per_image: int,
    rng: np.random.Generator,
) -> list[list[int]]:
    """
    Assign the categories to images.

    Args:
        counts: the number of distinct images of each category, at most ``num_images`` each.

    Returns:
        for each image the category indices of its annotated objects, in random order. Categories are repeated within
        images to reach the requested mean number of objects, if possible.
    """
    most = max_objects(objects_per_image)
    ideal = rng.uniform(0.4, 1.6, num_images)
    ideal = np.minimum(ideal * (counts.sum() / ideal.sum()), most)
    images: list[list[int]] = [[] for _ in range(num_images)]
    load = np.zeros(num_images)
    for category in np.argsort(-counts, kind="stable"):
        for i in _choose(ideal - load, load < most, int(counts[category]), rng):
            images[i].append(int(category))
            load[i] += 1
    _fill_empty(images, rng)
    _repeat_some(images, objects_per_image, rng)
    return [[image[i] for i in rng.permutation(len(image))] for image in images]


def _profile(num_classes: int, cap: float) -> np.ndarray:
    """Ascending counts with LVIS's proportions."""
    at = (np.arange(num_classes) + 0.5) / num_classes
    rare, common = np.searchsorted(at, [_RARE_SHARE, _RARE_SHARE + _COMMON_SHARE])
    sizes = (rare, common - rare, num_classes - common)
    ranges = ((1, RARE_MAX_IMAGES), (RARE_MAX_IMAGES + 1, COMMON_MAX_IMAGES), (COMMON_MAX_IMAGES + 1, cap))
    spread = [low * (high / low) ** _even(n) for n, (low, high) in zip(sizes, ranges)]
    return _round(np.concatenate(spread))


def _shrunk(counts: np.ndarray, highest: int, budget: int) -> np.ndarray:
    """Counts of at most ``highest`` with the same spacing on a logarithmic scale, or bent to stay in the budget."""
    level = np.log(counts) / max(np.log(counts.max()), 1e-9)
    low = np.clip(_TOP_PRESENCE * highest, 1, max(1, budget - len(counts)))
    shrunk = _largest(lambda top: _round(top**level), low, highest, budget)
    if shrunk.sum() <= budget:
        return shrunk
    return _largest(lambda bend: _round(low**level**-bend), -_MAX_BEND, -1.0, budget)


def _even(n: int) -> np.ndarray:
    return np.linspace(0, 1, n) if n > 1 else np.full(n, 0.5)


def _round(counts: np.ndarray) -> np.ndarray:
    return np.maximum(np.rint(counts), 1).astype(np.int64)


def _largest(make, low: float, high: float, budget: int) -> np.ndarray:
    """``make`` at the largest argument for which the sum is within the budget, by bisection; else at ``low``."""
    if make(high).sum() <= budget:
        return make(high)
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if make(middle).sum() <= budget else (low, middle)
    return make(low)


def _choose(wanted: np.ndarray, has_space: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """``n`` distinct images, with probabilities that grow with the missing objects; full ones only if necessary."""
    weight = np.where(has_space, np.maximum(wanted, 0.02), 1e-9)
    # The n largest of u ** (1 / weight) are a weighted sample without replacement.
    keys = np.log(rng.uniform(1e-12, 1, len(weight))) / weight
    return np.argpartition(-keys, n - 1)[:n] if n else np.zeros(0, np.int64)


def _fill_empty(images: list[list[int]], rng: np.random.Generator) -> None:
    """Move an object from the fullest image to each empty image, as long as the fullest one has two."""
    for image in images:
        if not image:
            fullest = max(images, key=len)
            if len(fullest) < 2:
                return
            image.append(fullest.pop(int(rng.integers(len(fullest)))))


def _repeat_some(images: list[list[int]], objects_per_image: int, rng: np.random.Generator) -> None:
    pairs = sum(map(len, images))
    missing = len(images) * objects_per_image - pairs
    chance = float(np.clip(missing / max(pairs, 1), 0.05, 0.5))
    for image in images:
        repeats = [c for c in image if rng.random() < chance]
        image += repeats[: max(0, max_objects(objects_per_image) - len(image))]
