"""The JSON of a :class:`balanced_lvis.priors.ClassPrior`."""

from __future__ import annotations

import functools
import json
import logging
import os

from .errors import InputError
from .io import open_regular
from .showings import Showings

logger = logging.getLogger(__name__)

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
    try:
        with open_regular(path, "r", encoding="utf-8-sig") as file:  # with a byte order mark or without
            content = json.load(file)
    except OSError as error:
        raise InputError(f"Class prior file {path!r} can't be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"Class prior file {path!r} is not UTF-8; save it as UTF-8.") from error
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"Class prior file {path!r} is not valid JSON: {error}.") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(
            f"{path!r} is not a class prior: its 'format' should be {FORMAT!r}. Write one with ClassPrior.save()."
        )
    try:
        arguments = _arguments(content)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"Class prior file {path!r} is incomplete or malformed: {error!r}.") from error
    if "counted" not in content:
        _report_all_images(path, arguments["num_images"])
    return arguments


def _arguments(content: dict) -> dict:
    """
    Raises:
        KeyError, TypeError, AttributeError: if an entry is missing or of another kind.
    """
    classes = content["classes"]
    instances = [c.get("instance_count") for c in classes]
    shown = content.get("shown")
    return {
        "class_names": tuple(c["name"] for c in classes),
        "image_count": [c["image_count"] for c in classes],
        "num_images": content["num_images"],
        "instance_count": None if None in instances else instances,
        "counted": str(content.get("counted", "")),
        "showings": shown
        and Showings(
            str(shown["sampler"]),
            shown["num_images"],
            [c["shown_image_count"] for c in classes],
            [c["shown_instance_count"] for c in classes],
        ),
    }


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
    content = {"format": FORMAT, "num_images": int(prior.num_images), "counted": prior.counted}
    shown = prior.showings
    if shown is not None:
        content["shown"] = {"sampler": shown.sampler, "num_images": shown.num_images}
        counts = zip(classes, shown.image_count.tolist(), shown.instance_count.tolist())
        for record, images, instances_shown in counts:
            record.update(shown_image_count=images, shown_instance_count=instances_shown)
    return {**content, "classes": classes}


@functools.cache
def _report_all_images(path: str, num_images) -> None:
    logger.warning(
        "Class prior %s doesn't say which images its num_images (%s) counts. Files of older versions count all, also "
        "images without objects, which training leaves out by default: a prior for training is best rewritten with "
        "tools/analyze_dataset.py --json.",
        path,
        num_images,
    )
