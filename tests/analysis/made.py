"""Random annotations and detections on which every rule of LVIS matters."""

from __future__ import annotations

import numpy as np

from balanced_lvis.analysis.matching import MatchTable, match_detections
from balanced_lvis.evaluation.backends import GroundTruth
from tests.evaluation.made import lvis_of, made_content, stored

IMAGES, CATEGORIES = 8, 5


def random_case(seed: int, federated: bool = True, objects: int = 24, detections: int = 110):
    """
    Annotations, and results (image, category, [x, y, w, h], score) with distinct scores.

    Half of the detections are near an object; some of these have another category. Without ``federated``, every
    category is annotated exhaustively in every image.
    """
    rng = np.random.default_rng(seed)
    boxes = np.concatenate([rng.uniform(0, (20, 12), (objects, 2)), rng.uniform(4, 12, (objects, 2))], axis=1)
    where = rng.integers(1, IMAGES + 1, objects), rng.integers(1, CATEGORIES + 1, objects)
    annotated = [(int(i), int(c), box.tolist()) for i, c, box in zip(*where, boxes)]
    pairs = {(i, c) for i in range(1, IMAGES + 1) for c in range(1, CATEGORIES + 1)}
    absent = sorted(pairs - {(i, c) for i, c, _ in annotated})
    if federated:
        negative = [pair for pair in absent if rng.random() < 0.4]
        not_exhaustive = [pair for pair in sorted(pairs) if rng.random() < 0.15]
    else:
        negative, not_exhaustive = absent, []
    content = made_content(annotated, negative, not_exhaustive, IMAGES, CATEGORIES)
    results = []
    for score in rng.permutation(detections) / detections + rng.uniform(0, 0.5 / detections):
        image, category, box = annotated[rng.integers(objects)]
        if rng.random() < 0.3:
            category = int(rng.integers(1, CATEGORIES + 1))
        if rng.random() < 0.4:
            image, box = int(rng.integers(1, IMAGES + 1)), rng.uniform((0, 0, 4, 4), (20, 12, 12, 12)).tolist()
        moved = np.float32(box + np.concatenate([rng.normal(0, 1.2, 2), rng.normal(0, 1, 2)]))
        moved[2:] = np.maximum(moved[2:], 1)
        results.append((image, category, moved.tolist(), float(score)))
    return content, results


def table_of(folder, content, results, task="bbox") -> MatchTable:
    """The matches of results, which are stored in ``folder``."""
    return match_detections(GroundTruth(lvis_of(content)), stored(folder, results), task)
