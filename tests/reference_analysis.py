"""
The numbers of balanced_lvis.analysis in plain loops, from the definitions in the papers.

A result is (image id, category id, [x, y, w, h], score); images, categories and annotations are those of a file in LVIS
format. IoUs are those of boxes, or of masks if ``iou`` is given.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

RECALLS = np.linspace(0, 1, 101).tolist()  # as in the LVIS API; not all are the float nearest to i / 100


def box_iou(first, second) -> float:
    """IoU of two boxes [x, y, w, h]."""
    width = min(first[0] + first[2], second[0] + second[2]) - max(first[0], second[0])
    height = min(first[1] + first[3], second[1] + second[3]) - max(first[1], second[1])
    shared = max(width, 0) * max(height, 0)
    return shared / (first[2] * first[3] + second[2] * second[3] - shared)


@dataclass
class Found:
    """A detection that counts."""

    index: int
    image: int
    category: int
    score: float
    status: str  # "true", "false" or "ignored"
    annotation: int | None  # id
    iou: float


def match(content, results, threshold) -> list[Found]:
    """Matches by the rules of LVIS, in the order of the results; categories that are not judged are left out."""
    found = []
    for image in content["images"]:
        for category in content["categories"]:
            objects = objects_of(content, image["id"], category["id"])
            if not objects and category["id"] not in image["neg_category_ids"]:
                continue
            own = [i for i, r in enumerate(results) if r[:2] == (image["id"], category["id"])]
            taken = set()
            for index in sorted(own, key=lambda i: -results[i][3]):
                best, best_iou = None, threshold
                for annotation in objects:
                    iou = box_iou(results[index][2], annotation["bbox"])
                    if annotation["id"] not in taken and iou >= best_iou:
                        best, best_iou = annotation["id"], iou
                if best is not None:
                    taken.add(best)
                    status = "true"
                else:
                    status = "ignored" if category["id"] in image["not_exhaustive_category_ids"] else "false"
                iou = best_iou if best is not None else 0
                found.append(Found(index, image["id"], category["id"], results[index][3], status, best, iou))
    return sorted(found, key=lambda one: one.index)


def objects_of(content, image, category) -> list[dict]:
    return [a for a in content["annotations"] if (a["image_id"], a["category_id"]) == (image, category)]


def number_of_objects(content, category) -> int:
    return sum(a["category_id"] == category for a in content["annotations"])


def average_precision(ranked: list[tuple[float, bool]], number: int) -> float:
    """AP in 0..1 of (score, true positive), none of which has the same score as another."""
    points, true = [], 0
    for count, (_, is_true) in enumerate(sorted(ranked, key=lambda one: -one[0]), 1):
        true += is_true
        points.append((true / number, true / count))
    return sum(max((p for r, p in points if r >= recall), default=0) for recall in RECALLS) / len(RECALLS)


def ap50_by_category(content, ranked: dict[int, list[tuple[float, bool]]], removed=None) -> dict[int, float]:
    """
    Args:
        ranked: (score, true positive) of each category.
        removed: number of objects that are removed from each category.
    """
    result = {}
    for category in (c["id"] for c in content["categories"]):
        number = number_of_objects(content, category)
        if number:
            left = number - (removed or {}).get(category, 0)
            result[category] = average_precision(ranked.get(category, []), left) if left else 1.0
    return result


# ------------------------------------------------------------------ error types


def error_types(content, results):
    """
    Returns:
        {index of a result: (type, annotation id or None)}, ids of missed annotations, and the indices whose correction
        finds their object.
    """
    found = match(content, results, 0.5)
    annotations = {a["id"]: a for a in content["annotations"]}
    used = {one.annotation for one in found if one.status == "true"}
    errors = {}
    for one in found:
        if one.status != "false":
            continue
        box = results[one.index][2]
        ious = {i: box_iou(box, a["bbox"]) for i, a in annotations.items() if a["image_id"] == one.image}
        own = {i: iou for i, iou in ious.items() if annotations[i]["category_id"] == one.category}
        other = {i: iou for i, iou in ious.items() if i not in own}
        used_own = {i: iou for i, iou in own.items() if i in used}
        if own and 0.1 <= max(own.values()) <= 0.5:
            errors[one.index] = "localisation", max(own, key=own.get)
        elif other and max(other.values()) >= 0.5:
            errors[one.index] = "classification", max(other, key=other.get)
        elif used_own and max(used_own.values()) >= 0.5:
            errors[one.index] = "duplicate", max(used_own, key=used_own.get)
        elif max(ious.values(), default=0) <= 0.1:
            errors[one.index] = "background", None
        else:
            errors[one.index] = "both", None
    about = {}
    for index, (name, annotation) in errors.items():
        if name in ("localisation", "classification") and annotation not in used:
            about.setdefault(annotation, []).append(index)
    missed = set(annotations) - used - set(about)
    fixes = {max(indices, key=lambda i: results[i][3]) for indices in about.values()}
    return errors, missed, fixes


def ap_lost(content, results, name, chosen=lambda index, annotation: True) -> dict[int, float]:
    """
    AP50 of each category that correcting errors of a type adds, in percent.

    Args:
        chosen: called with the index of a result, or None for a missed object, and its annotation id, or None.
    """
    errors, missed, fixes = error_types(content, results)
    category_of = {a["id"]: a["category_id"] for a in content["annotations"]}
    before, after, removed = {}, {}, {}
    for one in match(content, results, 0.5):
        if one.status == "ignored":
            continue
        point = one.score, one.status == "true"
        before.setdefault(one.category, []).append(point)
        error, annotation = errors.get(one.index, (None, None))
        if error != name or not chosen(one.index, annotation):
            after.setdefault(one.category, []).append(point)
        elif one.index in fixes:
            after.setdefault(category_of[annotation], []).append((one.score, True))
    if name == "missed":
        for annotation in missed:
            if chosen(None, annotation):
                removed[category_of[annotation]] = removed.get(category_of[annotation], 0) + 1
    first, second = ap50_by_category(content, before), ap50_by_category(content, after, removed)
    return {category: 100 * (second[category] - first[category]) for category in first}


def confusion(content, results) -> dict[tuple[int, int], tuple[int, int, float]]:
    """{(detected, annotated): (count, opportunities, AP50 lost)}."""
    errors, _, _ = error_types(content, results)
    category_of = {a["id"]: a["category_id"] for a in content["annotations"]}
    counts = {}
    for index, (name, annotation) in errors.items():
        if name == "classification":
            pair = results[index][1], category_of[annotation]
            counts[pair] = counts.get(pair, 0) + 1
    result = {}
    for (detected, annotated), count in counts.items():
        lost = ap_lost(
            content,
            results,
            "classification",
            lambda index, annotation, pair=(detected, annotated): (results[index][1], category_of[annotation]) == pair,
        )
        opportunities = 0
        for image in content["images"]:
            judged = objects_of(content, image["id"], detected) or detected in image["neg_category_ids"]
            if judged and detected not in image["not_exhaustive_category_ids"]:
                opportunities += len(objects_of(content, image["id"], annotated))
        result[detected, annotated] = count, opportunities, sum(lost.values()) / len(lost)
    return result


# ------------------------------------------------------------------ calibration and thresholds


def reliability(found: list[Found], bins: int) -> list[tuple[int, float, float, float]]:
    """(detections, true positives, sum of scores, sum of the IoUs of true positives) of each bin."""
    result = []
    for index in range(bins):
        low, high = index / bins, (index + 1) / bins
        own = [f for f in found if f.status != "ignored" and (low < f.score <= high or (index == 0 and f.score == 0))]
        true = [f for f in own if f.status == "true"]
        result.append((len(own), len(true), sum(f.score for f in own), sum(f.iou for f in true)))
    return result


def ece(found: list[Found], bins: int) -> float:
    rows = [row for row in reliability(found, bins) if row[0]]
    total = sum(row[0] for row in rows)
    return 100 * sum(n / total * abs(true / n - scores / n) for n, true, scores, _ in rows) if total else math.nan


def laece(found: list[Found], bins: int) -> float:
    """LaECE of one category: sum of |D_j| / |D| x |mean score - precision x mean IoU|."""
    rows = [row for row in reliability(found, bins) if row[0]]
    total = sum(row[0] for row in rows)
    if not total:
        return math.nan
    error = 0.0
    for n, true, scores, ious in rows:
        quality = true / n * (ious / true) if true else 0
        error += n / total * abs(scores / n - quality)
    return 100 * error


def laece_above_threshold(found: list[Found], number: int, bins: int, iou: float) -> float:
    """LaECE of the detections of one category with at least the score of the lowest LRP; NaN without true positives."""
    if not any(f.status == "true" for f in found):
        return math.nan
    scores = sorted({f.score for f in found if f.status != "ignored"}, reverse=True)
    best = min(scores, key=lambda score: lrp_at(found, number, score, iou)[0])
    return laece([f for f in found if f.score >= best], bins)


def lrp_at(found: list[Found], number: int, threshold: float, iou: float = 0.5):
    """LRP of one category above a score, and its components, in percent."""
    true = [f for f in found if f.status == "true" and f.score >= threshold]
    false = [f for f in found if f.status == "false" and f.score >= threshold]
    missed = number - len(true)
    localisation = sum(1 - f.iou for f in true)
    error = (localisation / (1 - iou) + len(false) + missed) / (len(true) + len(false) + missed)
    mean = localisation / len(true) if true else math.nan
    wrong = len(false) / (len(true) + len(false)) if true or false else math.nan
    return [100 * value for value in (error, mean, wrong, missed / number)]


def f1_at(found: list[Found], number: int, threshold: float) -> float:
    true = sum(f.status == "true" and f.score >= threshold for f in found)
    false = sum(f.status == "false" and f.score >= threshold for f in found)
    return 100 * 2 * true / (true + false + number)


# ------------------------------------------------------------------ boundaries


def boundary(mask, ratio=0.02):
    """The pixels of a mask (list of rows) within d of a pixel outside it or outside the image."""
    height, width = len(mask), len(mask[0])
    d = max(1, round(ratio * math.sqrt(height**2 + width**2)))

    def inside(y, x):
        return 0 <= y < height and 0 <= x < width and mask[y][x]

    return {
        (y, x)
        for y in range(height)
        for x in range(width)
        if mask[y][x] and not all(inside(y + i, x + j) for i in range(-d, d + 1) for j in range(-d, d + 1))
    }


def boundary_iou(first, second) -> float:
    one, other = boundary(first), boundary(second)
    return len(one & other) / len(one | other)
