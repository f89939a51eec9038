"""Reading and writing of class priors as JSON files."""

from __future__ import annotations

import os
from typing import Any

from ..utils.errors import InputError
from ..utils.io import read_json
from .sampled_counts import SampledCounts

FORMAT = "balanced_lvis class prior 1"


def read_prior(path: str | os.PathLike) -> dict:
    """
    Args:
        path: of a file that ``ClassPrior.save()`` wrote, in this version or an older one.

    Returns:
        the arguments of ``ClassPrior``.

    Raises:
        InputError: if the file is missing, is not valid JSON, or is not a class prior.
    """
    path = os.fspath(path)
    content = read_json(path, "Class prior file", "write it again with ClassPrior.save()")
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(
            f"{path!r} is not a class prior: its 'format' should be {FORMAT!r}. Write one with ClassPrior.save()."
        )
    try:
        return _arguments(content)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"Class prior file {path!r} is incomplete or malformed: {error!r}.") from error


def _arguments(content: dict) -> dict:
    """
    Raises:
        KeyError, TypeError, AttributeError: if an entry is missing or of another kind.
    """
    classes = content["classes"]
    instances = [c.get("instance_count") for c in classes]
    dimensions = [c.get("fractal_dimension") for c in classes]
    shown = content.get("shown")
    return {
        "class_names": tuple(c["name"] for c in classes),
        "image_count": [c["image_count"] for c in classes],
        "num_images": content["num_images"],
        "instance_count": None if None in instances else instances,
        "counted": str(content.get("counted", "")),
        "sampled_counts": None if shown is None else _sampled_counts(shown, classes),
        "fractal_dimension": None if None in dimensions else dimensions,
    }


def _sampled_counts(shown: dict, classes: list[dict]) -> SampledCounts:
    counts: list[Any] = [[c[f"shown_{what}_count"] for c in classes] for what in ("image", "instance")]
    return SampledCounts(str(shown["sampler"]), shown["num_images"], *counts)


def prior_content(prior) -> dict:
    """
    Args:
        prior: a ``ClassPrior``.

    Returns:
        the file's content. :func:`read_prior` ignores further entries, of the whole or of a class.
    """
    instances = [None] * prior.num_classes if prior.instance_count is None else prior.instance_count.tolist()
    classes = [
        {"name": name, "image_count": images, "instance_count": count}
        for name, images, count in zip(prior.class_names, prior.image_count.tolist(), instances)
    ]
    if prior.fractal_dimension is not None:
        for record, dimension in zip(classes, prior.fractal_dimension.tolist()):
            record["fractal_dimension"] = dimension
    content = {"format": FORMAT, "num_images": int(prior.num_images), "counted": prior.counted}
    shown = prior.sampled_counts
    if shown is not None:
        content["shown"] = {"sampler": shown.sampler, "num_images": shown.num_images}
        counts = zip(classes, shown.image_count.tolist(), shown.instance_count.tolist())
        for record, images, instances_shown in counts:
            record.update(shown_image_count=images, shown_instance_count=instances_shown)
    return {**content, "classes": classes}
